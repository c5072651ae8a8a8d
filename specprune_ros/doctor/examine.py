"""The order of the checks; those that need something that is missing are left out."""
from __future__ import annotations

import argparse
import time

import torch

from ..policy import Policy, load_policy
from ..preflight import Finding, Level, check_policy, check_query
from ..preflight.checkpoint import check_tokenizer, check_unnorm_key
from ..preflight.findings import fail, ok, run_checks
from ..preflight.memory import check_memory, memory_need
from ..share import checkpoint_dir
from ..vla.openvla_oft.config import read_model_config
from ..vla.openvla_oft.files import read_checkpoint_files
from ..vla.openvla_oft.model import resolve_dtype
from ..vla.registry import backbone_names
from . import dds, host


def examine(args: argparse.Namespace) -> list[Finding]:
    """Every finding, in the order of the table. Arguments are those of ``specprune doctor``."""
    findings = run_checks([
        ("python", host.check_python),
        ("versions", host.check_versions),
        ("rclpy", host.check_rclpy),
        ("rmw", dds.check_rmw),
        ("dds profile", dds.check_profile),
        ("shared memory", dds.check_shared_memory),
        ("ros domain", dds.check_domain),
        ("gpu", lambda: host.check_gpu(args.device)),
        ("off-screen rendering", host.check_rendering),
        ("display", host.check_display),
    ])
    return findings + _checkpoint(args)


def _checkpoint(args: argparse.Namespace) -> list[Finding]:
    path = checkpoint_dir(args.checkpoint)
    read: dict[str, object] = {}

    def files() -> Finding:
        read["files"] = found = read_checkpoint_files(path)
        read["config"] = read_model_config(found, backbone_names())
        size = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
        return ok("files", f"{path}: {len(found.tensors)} tensors, {size / 2**20:.0f} MiB")

    def memory() -> Finding:
        # A device that does not exist is for the line "policy" to name.
        kind = "cuda" if args.device.partition(":")[0] == "cuda" else "cpu"
        dtype = resolve_dtype(args.dtype, torch.device(kind))
        return check_memory(memory_need(read["files"], read["config"], dtype,
                                        len(args.cameras), args.chunk_length * 7), args.device)

    findings = run_checks([("files", files)])
    if _failed(findings):
        return findings
    findings += run_checks([
        ("tokenizer", lambda: check_tokenizer(path / "tokenizer.json",
                                              read["config"].llama.vocab_size)),
        ("memory", memory),
    ])
    if _failed(findings[-1:]):
        return [*findings, fail("policy", "not loaded, as memory does not suffice", "See above")]
    policy, found = _load(path, args)
    findings += found
    if policy is None:
        return findings
    findings += run_checks([
        ("unnorm_key", lambda: check_unnorm_key(read["files"].statistics, args.unnorm_key,
                                                policy.action_dim)),
    ])
    return findings + check_policy(policy, args.cameras) + check_query(policy, args.cameras)


def _load(path, args: argparse.Namespace) -> tuple[Policy | None, list[Finding]]:
    loaded: list[Policy] = []

    def load() -> Finding:
        start = time.perf_counter()
        loaded.append(load_policy(
            path, device=args.device, dtype=args.dtype, unnorm_key=args.unnorm_key,
            pruning=args.pruning, chunk_length=args.chunk_length))
        return ok("policy", f"loaded on {args.device} as {args.dtype} in "
                            f"{time.perf_counter() - start:.1f} s")

    findings = run_checks([("policy", load)])
    return (loaded[0] if loaded else None), findings


def _failed(findings: list[Finding]) -> bool:
    return any(finding.level is Level.FAIL for finding in findings)
