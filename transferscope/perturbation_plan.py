"""What a perturbation study edits: skill neurons, random and bottom ones, at each rate, draw and prompt.

Source: Wang et al., EMNLP 2022 (Finding Skill Neurons), section 4.1: noise on the skill neurons against noise
on as many random neurons of the same layers. Departures: the bottom neurons stand beside them, random sets
and noise are drawn several times, and the random sets of one draw grow with the rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indicators.predictivity import BY, skill_mask
from transferscope.errors import InputError, SignatureError, suggest
from transferscope.fingerprints import fingerprint
from transferscope.interventions import MODES, NOISE_BY, ROWS, UNITS
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature

SKILL, RANDOM, BOTTOM = CONDITIONS = ("skill", "random", "bottom")
RATES = tuple(round(0.02 * step, 2) for step in range(11))
DRAWS = 5
BASELINES = ("prompt-rows", "all-rows")


@dataclass(frozen=True)
class PerturbationSettings:
    """How neurons are perturbed.

    ``mode``, ``sd``, ``unit``, ``rows``, ``noise_by``: see `Edit`. ``rates``: shares of the neurons of each
    layer; 0 is always among them. ``draws``: random sets (and, with noise, runs of every set) a prompt.
    ``layers``: first and last layer, from 0, the last included (None: to the end). ``neurons``: the highest
    of each "layer" or of the "network" (of these layers). ``baseline``: what "mean" puts on all rows, each
    neuron's mean over "prompt-rows" (the signature's baseline) or over "all-rows"; on the prompt rows each
    row has its own. ``held_out``: skill neurons are found on one half of dev and scored on the other (the
    paper has one split for both). Raises InputError.
    """

    mode: str = "noise"
    sd: float = 0.1
    unit: str = "absolute"
    rows: str = "all"
    rates: tuple[float, ...] = RATES
    draws: int = DRAWS
    layers: tuple[int, int | None] = (0, None)
    neurons: str = "layer"
    noise_by: str = "example"
    baseline: str = "prompt-rows"
    seed: int = 0
    held_out: bool = False

    def __post_init__(self) -> None:
        for what, found, allowed in (
            ("mode", self.mode, MODES),
            ("unit", self.unit, UNITS),
            ("rows", self.rows, ROWS),
            ("neurons", self.neurons, BY),
            ("noise_by", self.noise_by, NOISE_BY),
            ("baseline", self.baseline, BASELINES),
        ):
            if found not in allowed:
                raise InputError(f"unknown {what} {found!r}. {suggest(str(found), allowed)}")
        if not all(0 <= rate <= 1 for rate in self.rates) or not any(self.rates):
            raise InputError(f"rates must be shares from 0 to 1, one of them above 0; got {list(self.rates)}")
        if self.draws < 1 or self.seed < 0 or not 0 <= self.sd < np.inf:
            raise InputError(
                f"draws must be at least 1, seed and sd at least 0; got draws {self.draws}, "
                f"seed {self.seed}, sd {self.sd}"
            )
        object.__setattr__(self, "rates", tuple(sorted({0.0, *map(float, self.rates)})))

    @property
    def random(self) -> bool:
        """Whether one edit of one set gives another result each time."""
        return self.mode == "noise"


def layer_range(text: str) -> tuple[int, int | None]:
    """A range of layers as it is written: "3-" (to the end), "0-5" (both included), "4" (it alone).

    >>> layer_range("3-"), layer_range("0-5"), layer_range("4")
    ((3, None), (0, 5), (4, 4))
    """
    match = re.fullmatch(r"(\d+)(-(\d*))?", text.strip())
    if not match:
        raise InputError(f"layers {text!r}: write 3- (from 3 to the last), 0-5 (both included) or 4")
    first = int(match[1])
    last = first if match[2] is None else int(match[3]) if match[3] else None
    if last is not None and last < first:
        raise InputError(f"layers {text!r}: the last is before the first")
    return first, last


def parse_rates(text: str) -> tuple[float, ...]:
    """Rates as they are written, with commas between them.

    >>> parse_rates("0.05, .1")
    (0.05, 0.1)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"rates {text!r}: write shares with commas between them, such as 0.05,0.1") from None


@dataclass(frozen=True)
class Ranking:
    """The neurons of a task by predictivity: ``subtasks`` [C, L, N] and their mean ``values`` [L, N].

    NaN where undefined. Means over trials.
    """

    task: str
    subtasks: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, signature: Signature) -> Ranking:
        """Raises SignatureError where the signature has no predictivity."""
        return cls(signature.task, signature.subtask_predictivity, signature.mean_predictivity)

    def skill(self, rate: float, settings: PerturbationSettings) -> np.ndarray:
        """The skill neurons [L, N] at a rate, in the layers of the settings. Raises SignatureError."""
        layers, (first, last) = len(self.values), settings.layers
        if first >= layers or (last is not None and last >= layers):
            wanted = f"{first} to {'the last' if last is None else last}"
            raise SignatureError(f"layers {wanted}: the model has {layers}, numbered from 0")
        there = slice(first, None if last is None else last + 1)
        mask = np.zeros(self.values.shape, dtype=bool)
        mask[there] = skill_mask(self.subtasks[:, there], rate, by=settings.neurons)
        return mask

    def bottom(self, like: np.ndarray) -> np.ndarray:
        """In each layer as many neurons as ``like`` [L, N] has there, of the lowest predictivity.

        Undefined neurons are not among them.
        """
        order = np.argsort(np.where(np.isnan(self.values), np.inf, self.values), axis=1, kind="stable")
        return _first(order, like) & ~np.isnan(self.values)


def random_order(shape: tuple[int, int], settings: PerturbationSettings, seed: int, draw: int) -> np.ndarray:
    """One draw of a random order of the neurons of each layer, [L, N] int64, for a prompt's seed."""
    rng = np.random.default_rng([settings.seed, seed, draw])
    return rng.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1)


def _first(order: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The first neurons of an order [L, N], in each layer as many as ``like`` has there: bool [L, N]."""
    taken = np.arange(order.shape[1]) < like.sum(axis=1, keepdims=True)
    mask = np.zeros(like.shape, dtype=bool)
    np.put_along_axis(mask, order, taken, axis=1)
    return mask


@dataclass(frozen=True)
class Unit:
    """One small evaluation: a set of neurons [L, N] edited under one prompt, once.

    ``place`` is the prompt's number among the task's, ``noise`` the seed of the noise (0 where nothing is
    random). Two units with the same ``key`` are the same evaluation, whatever condition and rate they are of.
    """

    condition: str
    rate: float
    place: int
    draw: int
    mask: np.ndarray
    noise: int
    key: str

    @property
    def neurons(self) -> int:
        """How many neurons are edited."""
        return int(self.mask.sum())


def plan(
    ranking: Ranking,
    prompts: Sequence[SoftPrompt],
    settings: PerturbationSettings,
    *,
    rates: Sequence[float] | None = None,
    conditions: Sequence[str] = CONDITIONS,
) -> Iterator[Unit]:
    """The units of a study: by prompt, rate (None: those of the settings), condition and draw.

    A set that is empty, as at rate 0, is the unperturbed task, one evaluation for all. Without noise the
    skill and the bottom neurons are edited once a prompt, since each time would be the same.
    """
    skills = {rate: ranking.skill(rate, settings) for rate in (settings.rates if rates is None else rates)}
    bottoms = {rate: ranking.bottom(skill) for rate, skill in skills.items()}
    shape = (ranking.values.shape[0], ranking.values.shape[1])
    for place, prompt in enumerate(prompts):
        orders = [random_order(shape, settings, prompt.seed, draw) for draw in range(settings.draws)]
        for rate, skill in skills.items():
            for condition in conditions:
                repeated = skill.any() and (settings.random or condition == RANDOM)
                several = settings.draws if repeated else 1
                for draw in range(several):
                    mask = skill if condition == SKILL else bottoms[rate]
                    if condition == RANDOM:
                        mask = _first(orders[draw], skill)
                    yield _unit(condition, rate, place, draw, mask, prompt, settings)


def _unit(
    condition: str,
    rate: float,
    place: int,
    draw: int,
    mask: np.ndarray,
    prompt: SoftPrompt,
    settings: PerturbationSettings,
) -> Unit:
    chosen = bool(mask.any())
    noise = 0
    if settings.random and chosen:
        noise = int(np.random.SeedSequence([settings.seed, prompt.seed, draw]).generate_state(1)[0])
    digest = fingerprint(np.packbits(mask)) if chosen else "none"
    return Unit(condition, rate, place, draw, mask, noise, fingerprint(prompt.fingerprint, digest, noise))
