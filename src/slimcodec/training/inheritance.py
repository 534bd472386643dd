"""What a student takes over from its teacher before it is trained. Nothing here needs PyTorch."""

from typing import Any

from slimcodec.codec.architecture import Architecture

INHERITED = ("g_a", "h_a", "downsampling", "latent_channels", "hyper_channels", "quality_ladder")
ENTROPY_MODEL = ("h_scale", "h_mean", "context")


def student_architecture(values: dict[str, Any], teacher: Architecture, *, inherit_encoder: bool) -> Architecture:
    """The student's architecture from its configured values, which may leave out the encoder and the latents.

    What they leave out is as in the teacher. With an inherited encoder, both are the teacher's whatever the values say.
    """
    of_teacher = {name: value for name, value in teacher.to_dict().items() if name in INHERITED}
    return Architecture.from_dict(values | of_teacher if inherit_encoder else of_teacher | values)


def inherited_parts(student: Architecture, teacher: Architecture, *, inherit_encoder: bool) -> tuple[str, ...]:
    """The parts that a new student takes from the teacher: its encoder, and its entropy model if the widths agree.

    Latents in the teacher's units have the teacher's distributions, so what models these need not be learned again.
    """
    if not inherit_encoder:
        return ()
    same = all(
        getattr(student, field) == getattr(teacher, field) for field in (*ENTROPY_MODEL, "stages", "context_kind")
    )
    return ("g_a", "h_a", *(ENTROPY_MODEL if same else ()))
