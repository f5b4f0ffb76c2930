"""How long an extraction takes on 1 to 1,000 nodes, and what saturates first: a calculation.

    python -m benchmarks.cluster_plan --cpu-s 0.17 --read-mb 3.1 --write-mb 2.2

What it is told: the CPU seconds, the bytes read and the bytes written of one image (measured by
benchmarks.extract_speed), and what the cluster has. What it assumes: images are alike, work is
in shards that nobody shares, so a run ends with the slowest core's last shard; cores, each
node's network, the store and the driver work at the same time, so the slowest of them decides.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

RUNS = (("Cityscapes train", 2_975), ("10 M images", 10_000_000))
NODES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Image:
    """What one image costs."""

    cpu_s: float
    read_mb: float
    write_mb: float


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What there is."""

    cores: int = 16  # of a node
    network_gbit: float = 10.0  # of a node
    store_gbit: float = 100.0  # of all nodes together
    store_requests: float = 3500.0  # writes a second: what S3 gives one prefix
    driver_ms: float = 2.0  # to plan, submit and collect a shard
    start_s: float = 20.0  # Ray's workers, once


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long each part is busy, in seconds."""

    cores: float
    network: float
    store: float
    requests: float
    driver: float
    start: float

    @property
    def total(self) -> float:
        """Of the run."""
        return self.start + max(self._parts().values())

    @property
    def bottleneck(self) -> str:
        """What is busy for longest."""
        parts = {**self._parts(), "start": self.start}
        return max(parts, key=parts.__getitem__)

    def _parts(self) -> dict[str, float]:
        return {
            "cores": self.cores,
            "network": self.network,
            "store": self.store,
            "requests": self.requests,
            "driver": self.driver,
        }


def estimate(
    num_images: int, nodes: int, per_shard: int, image: Image, hardware: Hardware
) -> Estimate:
    """The seconds of each part of a cluster."""
    shards = math.ceil(num_images / per_shard)
    rounds = math.ceil(shards / (nodes * hardware.cores))
    gbit = num_images * (image.read_mb + image.write_mb) * 8 / 1000
    return Estimate(
        cores=rounds * min(per_shard, num_images) * image.cpu_s,
        network=gbit / (nodes * hardware.network_gbit),
        store=gbit / hardware.store_gbit,
        requests=3 * shards / hardware.store_requests,  # tar, index, note
        driver=shards * hardware.driver_ms / 1000,
        start=hardware.start_s,
    )


def best_shard(num_images: int, nodes: int, image: Image, hardware: Hardware) -> int:
    """Images per shard with the shortest run; the larger of equals."""
    sizes = (256, 128, 64, 32, 16, 8, 4, 2, 1)
    return min(sizes, key=lambda size: estimate(num_images, nodes, size, image, hardware).total)


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    for name, unit in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in Image.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, required=True)
    for name, field in Hardware.__dataclass_fields__.items():
        kind = type(field.default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=field.default)
    given = vars(parser.parse_args(argv))
    image = Image(*(given[name] for name in Image.__dataclass_fields__))
    hardware = Hardware(**{name: given[name] for name in Hardware.__dataclass_fields__})
    for what, count in RUNS:
        print(f"\n{what}: {count:,} images")
        print("| nodes | 32 images a shard | limit | best shard | time | limit |")
        print("| --- | --- | --- | --- | --- | --- |")
        for nodes in NODES:
            usual = estimate(count, nodes, 32, image, hardware)
            size = best_shard(count, nodes, image, hardware)
            tuned = estimate(count, nodes, size, image, hardware)
            print(
                f"| {nodes} | {duration(usual.total)} | {usual.bottleneck} | {size} | "
                f"{duration(tuned.total)} | {tuned.bottleneck} |"
            )


if __name__ == "__main__":
    main()
