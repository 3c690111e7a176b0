"""The report of `slap aot` as text."""

from collections.abc import Mapping
from typing import Any

_NOTES = {
    "activations": "residuals of the backward pass; estimated",
    "temporaries": "all other memory that the compiler allocates",
}
_KINDS = ("parameters", "optimizer", "teacher", "batch", "activations", "temporaries", "total")


def format_report(result: Mapping[str, Any]) -> str:
    """Returns the report with one fact per line.

    Args:
        result: result of `slap_jax.aot.report`.
    """
    verdict = {True: "fits", False: "DOES NOT FIT", None: "not known to fit"}[result["fits"]]
    mesh = ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    lines = [
        f"{result['topology']}: {result['n_devices']} x {result['device_kind']}, mesh {mesh}",
        f"step: {result['rows']} rows, about {result['clips']} clips: {verdict}",
    ]
    if result.get("reason"):
        lines.append(f"  {result['reason']}")
    sizes = result["bytes_per_device"]
    lines += ["", "bytes per device"]
    lines += [f"  {kind:<12} {_size(sizes[kind])}  {_NOTES.get(kind, '')}".rstrip() for kind in _KINDS]
    lines.append(f"  {'capacity':<12} {_size(result['hbm_bytes'])}")
    lines += ["", "attention"]
    lines += [f"  {call:<28} {backend}" for call, backend in result["attention"].items()]
    lines += ["", "collectives of a step, bytes per device"]
    if not result["collectives"]:
        lines.append("  none" if result["collectives"] == {} else "  unknown")
    for kind, row in (result["collectives"] or {}).items():
        lines.append(f"  {kind:<20} {row['count']:>6} x {_size(row['bytes'])} in total")
    lines += ["", "compute", *_compute(result)]
    if result["compile_seconds"] is not None:
        lines += ["", f"compiled in {result['compile_seconds']} s, after {result['trace_seconds']} s of tracing"]
    if result.get("max_rows") is not None:
        lines += ["", f"largest number of rows that fits: {result['max_rows']}"]
    return "\n".join(lines)


def _size(count: int | None) -> str:
    if count is None:
        return f"{'unknown':>12}"
    return f"{count / 2**30:>8.2f} GiB" if count >= 2**30 else f"{count / 2**20:>8.2f} MiB"


def _compute(result: Mapping[str, Any]) -> list[str]:
    useful, computed = result["flops_per_step"], result["computed_flops_per_step"]
    again = result["recomputed_flops_per_step"]
    parts = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in result["bound_parts_seconds"].items())
    per_second = result["flops_per_audio_second"] / 1e9
    return [
        f"  useful    {useful / 1e12:10.2f} TFLOP per step, {per_second:.2f} GFLOP per second of audio",
        f"  computed  {computed / 1e12:10.2f} TFLOP per step: {again / 1e12:.2f} of rematerialisation, "
        f"{(computed - again - useful) / 1e12:.2f} on padding and masked pairs (traced program)",
        f"  at best   {parts}",
        f"  bound     {result['bound_step_seconds'] * 1e3:.1f} ms per step, MFU {result['bound_mfu']:.3f}, "
        f"{result['bound_audio_seconds_per_second']:,.0f} s of audio per second; {result['bound_by']} limits it",
    ]
