"""``features.*``: which extractors run, with which parameters. Every registered extractor has its keys here."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.features import REGISTRY, Extractor
from pipeline.features.extraction import BLOCK_SECONDS
from pipeline.workflows.config_checks import each_of, refused

# Every series that some extractor can store: those with a `*_blob` column.
SERIES = tuple(
    field_.name.removesuffix("_blob")
    for name in sorted(REGISTRY)
    for field_ in REGISTRY[name].widest().columns()
    if field_.name.endswith("_blob")
)


@dataclass
class _SharedByExtractors:
    enabled: list[str] = field(
        default_factory=lambda: sorted(name for name, cls in REGISTRY.items() if cls.by_default)
    )
    sample_rate: int = 22050
    block_seconds: float = BLOCK_SECONDS

    def extractors(self) -> list[Extractor]:
        """The enabled extractors with their parameters, in the order of their names."""
        return [REGISTRY[name](**dataclasses.asdict(getattr(self, name))) for name in sorted(self.enabled)]

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        each_of("features.enabled", self.enabled, sorted(REGISTRY))
        for name in self.enabled:
            if self.enabled.count(name) > 1:
                once = ",".join(dict.fromkeys(self.enabled))
                raise UserError(f"features.enabled names {name} twice", do=f"features.enabled=[{once}]")
        if not 4000 <= self.sample_rate <= 192000:
            raise refused(self, "features.sample_rate", "must lie within 4000..192000 Hz")
        if not 10 <= self.block_seconds <= 3600:
            raise refused(self, "features.block_seconds", "must lie within 10..3600")
        for extractor in self.extractors():
            try:
                extractor.check()
            except ValueError as error:
                raise UserError(
                    f"features.{extractor.name}.{error}", do=_own_defaults(extractor, str(error))
                ) from None


def extractor_config_class(cls: type[Extractor]) -> type:
    """A mutable twin of an extractor's frozen dataclass, which OmegaConf can override."""
    hints = typing.get_type_hints(cls)
    fields = []
    for f in dataclasses.fields(cls):
        if f.default_factory is not dataclasses.MISSING:
            fields.append((f.name, hints[f.name], field(default_factory=f.default_factory)))
        else:
            fields.append((f.name, hints[f.name], field(default=f.default)))
    return _named_here(dataclasses.make_dataclass(f"{cls.__name__}Config", fields))


def _features_config_class() -> type:
    fields: list[tuple] = []
    for name in sorted(REGISTRY):
        config = extractor_config_class(REGISTRY[name])
        fields.append((name, config, field(default_factory=config)))
    return _named_here(dataclasses.make_dataclass("FeaturesConfig", fields, bases=(_SharedByExtractors,)))


def _named_here(cls: type) -> type:
    """The class, where pickle looks for it: a config travels to the process that looks for the models."""
    cls.__module__ = __name__
    globals()[cls.__name__] = cls
    return cls


FeaturesConfig = _features_config_class()


def _own_defaults(extractor: Extractor, text: str) -> str:
    """The defaults of the parameters that ``text`` names, as what to type."""
    named = {
        f.name: getattr(type(extractor)(), f.name)
        for f in dataclasses.fields(extractor)
        if re.search(rf"\b{f.name}\b", text)
    }
    return " ".join(f"features.{extractor.name}.{name}={value}" for name, value in named.items())
