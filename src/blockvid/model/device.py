"""Where to compute, and with how many bits."""

from __future__ import annotations

import torch

from blockvid.errors import InputError


def pick_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU; InputError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is none that blockvid computes on; use auto, cpu or cuda")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device} was asked for and {torch.cuda.device_count()} CUDA GPUs are visible; use --device cpu"
        )
    return place


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32."""
    native = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.cpu.get_capabilities().get("avx512_bf16", False)
    )
    return torch.bfloat16 if native else torch.float32
