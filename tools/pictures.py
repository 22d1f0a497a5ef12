"""Pictures drawn by rule: texture, edges, shapes and light without anybody's photographs.

Each function takes a random generator and a side, and returns (side, side, 3) float32 in [0, 1].
Dead leaves: Lee, Mumford & Huang, 2001; learning from such pictures: Baradad et al., 2021
(noise, dead leaves) and Kataoka et al., 2020 (fractals).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.float32]
Draw = Callable[[np.random.Generator, int], Picture]


def palette(rng: np.random.Generator, n: int) -> Picture:
    """Return n colours around a few hues, (n, 3): most pictures have few."""
    centres = rng.random((rng.integers(1, 5), 3))
    spread = rng.uniform(0.02, 0.3)
    colours = centres[rng.integers(len(centres), size=n)] + rng.normal(0, spread, (n, 3))
    if rng.random() < 0.2:
        colours = np.repeat(colours.mean(axis=1, keepdims=True), 3, axis=1)
    return colours.clip(0, 1).astype(np.float32)


def coloured(rng: np.random.Generator, field: NDArray[np.floating]) -> Picture:
    """Run a field of numbers through a random ramp of colours."""
    low, high = np.quantile(field, [0.01, 0.99])
    position = ((field - low) / (high - low + 1e-9)).clip(0, 1)
    stops = palette(rng, int(rng.integers(2, 6)))
    at = np.sort(rng.random(len(stops)))
    channels = [np.interp(position, at, stops[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def noise_field(rng: np.random.Generator, side: int) -> NDArray[np.floating]:
    """Return noise with a spectrum of 1 / f^a, often stretched in one direction."""
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    angle, stretch = rng.uniform(0, np.pi), rng.choice([1.0, rng.uniform(1, 8)])
    u = fx * np.cos(angle) + fy * np.sin(angle)
    v = (fy * np.cos(angle) - fx * np.sin(angle)) * stretch
    f = np.hypot(u, v)
    f[0, 0] = np.inf
    spectrum = f ** -rng.uniform(0.5, 2.5) * np.exp(2j * np.pi * rng.random(f.shape))
    if rng.random() < 0.4:  # a band of frequencies: grain, cells, ripples
        centre = np.exp(rng.uniform(np.log(2 / side), np.log(0.3)))
        spectrum *= np.exp(-(np.log((f + 1e-9) / centre) ** 2) / (2 * rng.uniform(0.1, 0.7) ** 2))
    return np.asarray(np.fft.irfft2(spectrum, (side, side)))


def noise(rng: np.random.Generator, side: int) -> Picture:
    """Clouds, marble, grain: noise, bent or cut into levels now and then."""
    field = noise_field(rng, side)
    field = field / (field.std() + 1e-9)
    kind = rng.random()
    if kind < 0.2:
        field = np.abs(field)
    elif kind < 0.4:
        field = np.sin(field * rng.uniform(2, 8))
    elif kind < 0.6:
        field = np.digitize(field, np.sort(rng.normal(0, 1, rng.integers(1, 5)))).astype(float)
        field = field + rng.normal(0, 0.02, field.shape)
    return coloured(rng, field)


def gratings(rng: np.random.Generator, side: int) -> Picture:
    """Waves, stripes, rings and checks, bent by slow noise."""
    y, x = np.mgrid[:side, :side] / side - rng.random((2, 1, 1))
    bend = noise_field(rng, side)
    x = x + bend / (np.abs(bend).max() + 1e-9) * rng.choice([0, rng.uniform(0, 0.15)])
    field = np.zeros((side, side))
    for _ in range(rng.integers(1, 4)):
        angle, frequency = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(2), np.log(50)))
        along = x * np.cos(angle) + y * np.sin(angle)
        if rng.random() < 0.3:
            along = np.hypot(x, y)
        wave = np.sin(2 * np.pi * frequency * along)
        wave = np.sign(wave) if rng.random() < 0.3 else wave
        field = field * wave if rng.random() < 0.3 else field + wave
    return coloured(rng, field + rng.normal(0, 0.05, field.shape))


def fractal(rng: np.random.Generator, side: int) -> Picture:
    """Draw the density of a random iterated function system, on a plain or noisy ground."""
    n_maps, n_points, n_steps = int(rng.integers(2, 6)), 2000, 60
    matrices = rng.uniform(-1, 1, (n_maps, 2, 2))
    # Scaled so that each map shrinks: the points then stay within bounds.
    norms = np.linalg.norm(matrices, 2, axis=(1, 2))
    matrices *= (rng.uniform(0.4, 0.9, n_maps) / norms)[:, None, None]
    shifts = rng.uniform(-1, 1, (n_maps, 2))
    points, visited = rng.uniform(-1, 1, (n_points, 2)), []
    for step in range(n_steps):
        chosen = rng.integers(n_maps, size=n_points)
        points = np.einsum("nij,nj->ni", matrices[chosen], points) + shifts[chosen]
        if step > 10:
            visited.append(points)
    cloud = np.concatenate(visited)
    low, high = np.quantile(cloud, [0.01, 0.99], axis=0)
    cells = ((cloud - low) / (high - low + 1e-9) * 0.9 + 0.05) * side
    cells = cells[((cells >= 0) & (cells < side)).all(axis=1)].astype(int)
    density = np.bincount(cells[:, 0] * side + cells[:, 1], minlength=side * side)
    density = np.log1p(density.reshape(side, side).astype(float))
    ground = noise(rng, side) if rng.random() < 0.5 else palette(rng, 1)[None]
    alpha = (density / density.max())[..., None] ** rng.uniform(0.3, 1)
    return (ground * (1 - alpha) + coloured(rng, density) * alpha).astype(np.float32)


def texture(rng: np.random.Generator, side: int) -> Picture:
    """Any of the fields that fill a whole picture."""
    return (noise, gratings)[int(rng.random() < 0.35)](rng, side)


def leaves(
    rng: np.random.Generator, side: int, fillings: Sequence[Picture] = (), n_most: int = 150
) -> Picture:
    """Dead leaves: shapes of all sizes, one over the other, plain or filled with pictures."""
    picture = Image.fromarray(to_bytes(texture(rng, side)))
    filled = [Image.fromarray(to_bytes(one)) for one in fillings]
    for colour in palette(rng, int(rng.integers(5, n_most))):
        radius = min(side * 0.02 * (1 + rng.pareto(1.2)), side * 0.6)
        outline = _outline(rng, rng.uniform(0, side, 2), radius)
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        if rng.random() < 0.3:
            mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
        if filled and rng.random() < 0.4:
            picture.paste(filled[int(rng.integers(len(filled)))], (0, 0), mask)
        else:
            picture.paste(tuple(int(v * 255) for v in colour), (0, 0, side, side), mask)
    return to_floats(picture)


def solids(rng: np.random.Generator, side: int) -> Picture:
    """Lit balls and barrels with shadows on a shaded ground."""
    y, x = np.mgrid[:side, :side] / side
    ground = texture(rng, side) if rng.random() < 0.5 else palette(rng, 1)[None]
    slope = rng.normal(0, 0.4, 2)
    picture = ground * (1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5))[..., None]
    light = rng.normal(0, 1, 3)
    light[2] = abs(light[2]) + 0.5
    light /= np.linalg.norm(light)
    for colour in palette(rng, int(rng.integers(1, 12))):
        cx, cy, r = rng.random(), rng.random(), min(0.05 + rng.pareto(2) * 0.08, 0.5)
        angle, flat = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / r
        v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / (r * flat)
        is_barrel = rng.random() < 0.4
        inside = (np.abs(u) < 1) & (np.abs(v) < 1) if is_barrel else u**2 + v**2 < 1
        shadow = np.exp(-(((u + light[0]) ** 2 + (v + light[1]) ** 2) ** 2))
        picture = picture * (1 - 0.5 * shadow * ~inside)[..., None]
        height = np.sqrt(np.clip(1 - v**2 - (0 if is_barrel else u**2), 0, 1))
        facing = (0 if is_barrel else u) * light[0] + v * light[1] + height * light[2]
        lit = 0.25 + 0.75 * np.clip(facing, 0, 1)
        shine = rng.choice([0, 0.6]) * np.clip(facing, 0, 1) ** 20
        picture = np.where(inside[..., None], colour * lit[..., None] + shine[..., None], picture)
    return picture.clip(0, 1).astype(np.float32)


def strokes(rng: np.random.Generator, side: int) -> Picture:
    """Scratches, loops, branches and glyph-like marks on texture or a plain ground."""
    if rng.random() < 0.6:
        ground = texture(rng, side)
    else:
        ground = np.ones((side, side, 1), np.float32) * palette(rng, 1)
    picture = Image.fromarray(to_bytes(ground))
    pen = ImageDraw.Draw(picture)
    for colour in palette(rng, int(rng.integers(1, 40))):
        n = int(rng.integers(2, 30))
        turn = np.cumsum(rng.normal(0, rng.uniform(0.05, 0.8), n)) + rng.uniform(0, 2 * np.pi)
        step = rng.uniform(0.01, 0.08) * side
        path = rng.uniform(0, side, 2) + np.cumsum(
            step * np.stack([np.cos(turn), np.sin(turn)], axis=1), axis=0
        )
        width = int(1 + rng.pareto(1.5) * 2)
        pen.line([tuple(p) for p in path], tuple(int(v * 255) for v in colour), width, "curve")
    return to_floats(picture)


DRAWN: tuple[Draw, ...] = (noise, gratings, fractal, leaves, solids, strokes)


def draw(rng: np.random.Generator, side: int) -> Picture:
    """Draw a picture of a random kind."""
    return DRAWN[int(rng.integers(len(DRAWN)))](rng, side)


def mosaic(rng: np.random.Generator, photos: Sequence[Image.Image], side: int, n: int) -> Picture:
    """Lay n × n photographs side by side, so that small ones keep their detail."""
    picture = Image.new("RGB", (side, side))
    edges = np.linspace(0, side, n + 1).round().astype(int)
    for i in range(n):
        for j in range(n):
            photo = photos[int(rng.integers(len(photos)))]
            size = (int(edges[i + 1] - edges[i]), int(edges[j + 1] - edges[j]))
            picture.paste(photo.resize(size, Image.Resampling.BICUBIC), (edges[i], edges[j]))
    return to_floats(picture)


def jittered(rng: np.random.Generator, picture: Picture) -> Picture:
    """Change light, contrast, colour and sharpness, mirror: what a camera may do."""
    picture = picture[:, ::-1] if rng.random() < 0.5 else picture
    if rng.random() < 0.8:
        mean = picture.mean(axis=(0, 1), keepdims=True)
        picture = (picture - mean) * rng.uniform(0.5, 1.4) + mean * rng.uniform(0.6, 1.4)
        grey = picture.mean(axis=2, keepdims=True)
        picture = grey + (picture - grey) * rng.uniform(0, 1.5)
        picture = picture * rng.uniform(0.85, 1.15, (1, 1, 3))
    if rng.random() < 0.15:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.15:
        picture = picture + rng.normal(0, rng.uniform(0.01, 0.1), picture.shape)
    picture = picture.clip(0, 1)
    if rng.random() < 0.15:
        blurred = Image.fromarray(to_bytes(picture))
        picture = to_floats(blurred.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3))))
    return picture.astype(np.float32)


def _outline(
    rng: np.random.Generator, centre: NDArray[np.floating], radius: float
) -> list[tuple[float, float]]:
    n = int(rng.choice([3, 4, 4, 5, 6, 24, 24, 24]))
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(0, 2 * np.pi)
    wobble = 1 + rng.normal(0, rng.choice([0, 0.15]), n)
    stretch = np.array([1, rng.uniform(0.2, 1)])
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * wobble[:, None] * radius
    return [tuple(p) for p in (points * stretch) @ turn.T + centre]


def to_bytes(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture as 8-bit values."""
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def to_floats(image: Image.Image) -> Picture:
    """Return an RGB picture as values in [0, 1]."""
    return np.asarray(image, np.float32) / 255
