from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from runtime.palette import color_of, mask_palette

# What a dichromat sees, in linear RGB: Machado, Oliveira and Fernandes (2009), table 1, severity 1.0.
DICHROMATS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(color: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    levels = np.array(color) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def test_a_class_has_one_colour_and_the_first_35_differ() -> None:
    colors = [color_of(index) for index in range(35)]
    assert len(set(colors)) == 35
    assert colors == [color_of(index) for index in range(35, 70)]
    assert all(0 <= level <= 255 for color in colors for level in color)


def test_the_first_seven_are_told_apart_without_one_of_the_three_kinds_of_cones() -> None:
    for kind, matrix in DICHROMATS.items():
        seen = [np.clip(np.array(matrix) @ linear(color_of(index)), 0, 1) ** (1 / 2.2) for index in range(7)]
        nearest = min(np.abs(one - other).max() for one, other in combinations(seen, 2))
        assert nearest > 0.1, kind  # a tenth of what a screen can do


def test_a_mask_has_black_and_then_the_classes_colours() -> None:
    palette = mask_palette()
    assert len(palette) == 3 * 256
    assert palette[:3] == bytes(3)
    assert [tuple(palette[3 * index : 3 * index + 3]) for index in range(1, 256)] == list(map(color_of, range(1, 256)))
