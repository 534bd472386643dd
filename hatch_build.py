"""What hatchling does for a wheel beyond copying: the entropy coder's C becomes a library in it.

No part of it depends on Python, so one wheel a platform serves every version. Where there is no compiler, the package
ziglang brings one for the build and is gone with it.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "src"))

from slimcodec.codec import building


class CoderHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return [] if building.compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.until_the_wheel_is_there = ExitStack()
        library = self.until_the_wheel_is_there.enter_context(building.library())
        if version != "editable":  # which is used where it is
            build_data["force_include"][str(library)] = f"slimcodec/codec/{library.name}"
        platform = self.build_config.builder.get_best_matching_tag().rpartition("-")[2]
        build_data["tag"], build_data["pure_python"] = f"py3-none-{platform}", False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.until_the_wheel_is_there.close()
