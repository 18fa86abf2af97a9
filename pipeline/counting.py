"""Numbers of things in sentences."""

from __future__ import annotations

THIN = "\u202f"
"""A narrow space that does not break, between thousands and before units."""


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands: ``100 000``."""
    return "–" if value is None else f"{round(value):,}".replace(",", THIN)


def plural(number: float, noun: str, many: str = "") -> str:
    """``1 track``, ``3 tracks``, ``0 tracks``, ``1.5 CPUs``; ``many`` where it is not the noun with an s."""
    said = count(number) if number == round(number) else f"{number:g}"
    return f"{said} {noun if number == 1 else many or f'{noun}s'}"
