"""The settings of a study, as its ``study.yaml`` has them: checked on reading."""

from __future__ import annotations

from reprlib import repr as short
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from transferscope import store
from transferscope.errors import StudyError, suggest
from transferscope.task_spec import TaskSpec, parse_spec

MAX_SEEDS = 100
RESERVED = ("none", "random", "scratch")


class Strict(BaseModel):
    """Settings that refuse what they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Strict):
    """Which backbone, how it is loaded, and in what precision it is scored and tuned."""

    name: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    trust_remote_code: bool = False
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None = (
        None
    )
    max_memory: dict[int | str, int | str] | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    # Of accuracy and tuning, not of the model: what was made in it says so itself, so no dump has it.
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", exclude=True)

    @model_serializer(mode="wrap")
    def _fields(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not set of the later fields: a study's model is remembered by these."""
        later = ("device_map", "max_memory", "quantization")
        return {name: value for name, value in fields(self).items() if name not in later or value is not None}

    @model_validator(mode="after")
    def _one_precision(self) -> ModelSettings:
        if self.precision != "auto" and self.dtype != "float32":
            raise ValueError(
                f"precision is {self.precision!r} and dtype {self.dtype!r}: a model loaded in {self.dtype} "
                "runs in that alone; leave precision at auto, or load it in float32"
            )
        return self


class TuningSettings(Strict):
    """How a prompt is tuned. ``rows`` are its virtual tokens, the mask row of ``mask-first`` not counted.

    ``together``: seeds of a task in one batch; ``auto`` on a GPU alone.
    """

    rows: int = Field(16, ge=1)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(0.02, gt=0)
    head_learning_rate: float = Field(0.005, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.06, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    init: Literal["random", "label-words", "vocabulary"] = "vocabulary"
    evaluate_every: int = Field(100, ge=1)
    patience: int | None = Field(None, ge=1)
    validation: float = Field(0.1, gt=0, lt=1)
    # How fast, not what: it is no part of what a prompt was made from, so it is left out of every dump.
    together: Literal["auto"] | bool = Field("auto", exclude=True)


class SignatureSettings(Strict):
    """How signatures are extracted."""

    compat: bool = False
    balanced: bool | None = None
    quantized: bool = False

    @model_serializer(mode="wrap")
    def _fields(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``quantized`` where it is off: what was made before there was the choice stays current."""
        return {name: value for name, value in fields(self).items() if name != "quantized" or value}


class FeatureSettings(Strict):
    """What indicators read of targets' data, and of tasks' profiles; both of the train split."""

    examples: int = Field(500, ge=2)
    layers: bool = False
    fisher_labels: Literal["drawn", "given"] = "drawn"


class TransferSettings(Strict):
    """How transfer is measured. ``learning_rates`` (of protocol init) are factors of the tuning's."""

    random_draws: int = Field(3, ge=0, le=MAX_SEEDS)
    probe: Literal["ridge", "logistic"] = "ridge"
    probe_examples: int = Field(2000, ge=2)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.25, 0.5, 1.0, 2.0), min_length=1)
    tolerance: float = Field(0.01, ge=0)


class StudySettings(Strict):
    """A whole study: model, template, head, tasks, seeds, tuning, what is extracted, indicators, transfer."""

    model: ModelSettings
    tasks: dict[str, TaskSpec] = Field(min_length=1)
    template: Literal["mask-first", "prefix", "suffix"] | None = None
    head: Literal["verbalizer", "classifier"] = "verbalizer"
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    max_length: int | None = Field(None, ge=4)
    token_budget: int = Field(8192, ge=64)
    tuning: TuningSettings = TuningSettings()
    signatures: SignatureSettings = SignatureSettings()
    features: FeatureSettings = FeatureSettings()
    indicators: tuple[str, ...] | None = None
    measure: bool = True
    transfer: TransferSettings = TransferSettings()

    @model_validator(mode="before")
    @classmethod
    def _auto_is_unsaid(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("token_budget") != "auto":
            return value
        return {key: field for key, field in value.items() if key != "token_budget"}

    @property
    def has_token_budget(self) -> bool:
        """Whether the token budget is said; unsaid (or ``auto``), a GPU may have a larger one."""
        return "token_budget" in self.model_fields_set

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("tasks", mode="before")
    @classmethod
    def _task_by_task(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name in value:
            if str(name) in RESERVED:
                raise ValueError(
                    f"a task cannot be called {str(name)!r}: in tables of transfer, {', '.join(RESERVED)} "
                    "are the controls beside the sources"
                )
        return {str(name): parse_spec(str(name), spec) for name, spec in value.items()}

    @model_validator(mode="after")
    def _of_a_text_alone(self) -> StudySettings:
        if self.signatures.quantized and self.model.quantization == "8bit":
            raise ValueError(
                "signatures.quantized is for quantization: 4bit; in 8 bits a text's activations depend on "
                "the other texts of its batch, and predictivity means nothing"
            )
        return self

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_of_seeds(cls, value: Any) -> Any:
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(
                f"seeds as a number says how many trials, 1 to {MAX_SEEDS}; for one seed write [{value}]"
            )
        return tuple(range(value))

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"seeds must differ, got {list(value)}")
        if min(value) < 0:
            raise ValueError(f"seeds must not be negative, got {list(value)}")
        return value


def read_settings(path: store.AnyPath) -> StudySettings:
    """Read a ``study.yaml`` (safe YAML only).

    Raises StudyError with one line for each thing that is wrong.
    """
    path = store.place(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except StudyError:
        raise
    except FileNotFoundError:
        raise StudyError(f"no study file {str(path)!r}") from None
    except (
        OSError,
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # ValueError: not UTF-8, or no such date
        raise StudyError(f"{str(path)!r} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise StudyError(
            f"{str(path)!r} should hold a mapping with 'model' and 'tasks', found {type(raw).__name__}"
        )
    return parse_settings(raw, str(path))


def parse_settings(raw: dict[str, Any], where: str = "study") -> StudySettings:
    """Settings from a mapping. Raises StudyError."""
    try:
        return StudySettings.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(one)) for one in error.errors())
        raise StudyError(f"{where}: {problems}") from None


def _explain(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting {place!r}. {suggest(str(error['loc'][-1]), _fields(error['loc'][:-1]))}"
    if error["type"] == "value_error":  # our own words
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{place!r} is missing"
    return f"{place}: {error['msg']} (found {short(error['input'])})"


def _fields(place: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "model": ModelSettings,
        "tuning": TuningSettings,
        "signatures": SignatureSettings,
        "features": FeatureSettings,
        "transfer": TransferSettings,
    }
    return (
        list(sections.get(str(place[0]), StudySettings).model_fields)
        if place
        else list(StudySettings.model_fields)
    )
