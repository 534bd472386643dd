"""Models on the Hugging Face Hub, where an address names one: hf://owner/name, or hf://owner/name@revision.

What is downloaded is a model directory, read as any other: nothing of it is run, and nothing is a pickle. The library
huggingface-hub (slimcodec[hub]) is imported when an address is used. It keeps what it downloaded: without a network,
a model that was loaded once is loaded again.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import slimcodec
from slimcodec import InvalidInput, InvalidModel

SCHEME = "hf://"


def is_address(name: object) -> bool:
    return isinstance(name, str) and name.startswith(SCHEME)


def download(address: str, files: list[str]) -> Path:
    """The folder, in the library's cache, with these files, all of one commit. Raises InvalidModel."""
    repository, _, revision = address.removeprefix(SCHEME).partition("@")
    commit, path = revision or None, ""
    with _in_one_line(address):
        for name in files:
            path = _library().hf_hub_download(
                repository, name, revision=commit, library_name="slimcodec", library_version=slimcodec.__version__
            )
            commit = Path(path).parent.name
    return Path(path).parent


def upload(repository: str, files: Mapping[str, bytes | Path], *, private: bool, message: str) -> str:
    """All files in one commit, to a repository that is made if it is not there → its address. Raises InvalidModel."""
    with _in_one_line(SCHEME + repository):
        library = _library()
        api = library.HfApi(library_name="slimcodec", library_version=slimcodec.__version__)
        api.create_repo(repository, private=private, exist_ok=True)
        added = [
            library.CommitOperationAdd(name, data if isinstance(data, bytes) else str(data))
            for name, data in files.items()
        ]
        done = api.create_commit(repository, added, commit_message=message)
    return f"{SCHEME}{repository}@{done.oid}"


def front_matter(role: str, licence: str) -> str:
    """What the Hub lists a model by: YAML before its card."""
    data = _library().ModelCardData(
        license=licence,
        library_name="slimcodec",
        pipeline_tag="image-to-image",
        tags=["image-compression", "learned-compression", "slimcodec", role],
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _library() -> Any:
    try:
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        missing = "huggingface-hub, which is not installed"
        raise InvalidInput(f"{SCHEME} needs {missing}: pip install 'slimcodec[hub]'") from error
    return huggingface_hub


@contextlib.contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    """What the library raises, told by what to do."""
    errors = _library().errors
    try:
        yield
    except errors.HFValidationError as error:
        raise InvalidModel(f"{address}: is no address on the Hub, such as {SCHEME}owner/name@revision") from error
    except errors.RevisionNotFoundError as error:
        raise InvalidModel(f"{address}: there is no such revision of this model on the Hub") from error
    except errors.RemoteEntryNotFoundError as error:
        raise InvalidModel(f"{address}: is no slimcodec model, whose files are not there") from error
    except errors.RepositoryNotFoundError as error:
        raise InvalidModel(f"{address}: is not on the Hub, or is private; `hf auth login` says who you are") from error
    except errors.LocalEntryNotFoundError as error:
        raise InvalidModel(
            f"{address}: the Hub cannot be reached, and the model is not in the cache; "
            "try again with a network, or name a model directory"
        ) from error
    except (errors.HfHubHTTPError, OSError, errors.LocalTokenNotFoundError) as error:
        raise InvalidModel(f"{address}: the Hub refused ({' '.join(str(error).split())[:200]})") from error
