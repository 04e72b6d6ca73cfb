"""Motions as files, for tests that read them."""

from __future__ import annotations

from pathlib import Path

from scipy.spatial.transform import Rotation

from canon.skeletons import Motion


def write_bvh(motion: Motion, path: Path) -> None:
    """A BVH file of a motion, angles about Z, X and Y."""
    own = motion.skeleton
    below = [[k for k, above in enumerate(own.parents) if above == joint] for joint in range(len(own))]
    lines: list[str] = ["HIERARCHY"]
    order: list[int] = []

    def write(joint: int, pad: str) -> None:
        order.append(joint)
        position = "6 Xposition Yposition Zposition" if joint == 0 else "3"
        lines.extend([f"{pad}{'JOINT' if joint else 'ROOT'} {own.names[joint]}", pad + "{"])
        lines.append(f"{pad}  OFFSET " + " ".join(f"{x:.7f}" for x in own.offsets[joint]))
        lines.append(f"{pad}  CHANNELS {position} Zrotation Xrotation Yrotation")
        for child in below[joint]:
            write(child, pad + "  ")
        if not below[joint]:
            lines.extend([f"{pad}  End Site", pad + "  {", f"{pad}    OFFSET 0 0.1 0", pad + "  }"])
        lines.append(pad + "}")

    write(0, "")
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.8f}"]
    for t in range(len(motion)):
        angles = Rotation.from_matrix(motion.rotations[t, order]).as_euler("ZXY", degrees=True)
        lines.append(" ".join(f"{x:.6f}" for x in (*motion.root[t], *angles.ravel())))
    path.write_text("\n".join(lines) + "\n")
