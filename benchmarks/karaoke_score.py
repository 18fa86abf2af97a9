"""How far the karaoke score can be trusted, and the calibration it is made of.

Mixtures of backings and voices that are known, from every song at three levels (voice to backing -6, 0 and +6 dB),
11.5 s each, and instrumentals of them: Spleeter and mid/side as they are, half and one and a half times subtracted; an
ideal ratio mask; better and worse than any (the truth with voice added, with damage, half-way to it); and absurd ones
(do-nothing, silence, low-pass, inverted centre). Each has a true SI-SDR. "Realistic" leaves out the absurd ones.

Further songs (--further) have other voices, sung and spoken by other synthesizers among them, at levels drawn from
-8 to 8 dB, and a few of the outputs each.

Songs of both are predicted by models that were fitted without them (folds by song, and the intervals inside the
rest likewise); held-out songs with held-out voices by the calibration itself. Nothing was chosen by the latter.

    python benchmarks/karaoke_score.py --more-music FOLDER ... --cache FOLDER
    python benchmarks/karaoke_score.py --more-music FOLDER ... --further FOLDER ... --held-out FOLDER ... \
        --cache FOLDER --write

--write replaces pipeline/karaoke/calibration.json. Voices of espeak-ng and flite take part where they are installed; a
sung one stands in for them elsewhere. Evidence is kept in the cache folder: several runs with --part 1/2 and --part 2/2
fill it side by side, and the run without takes it from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
sys.path.insert(0, str(REPO / "benchmarks"))

import karaoke_fit
from karaoke_rows import Row, code_version, rows, setup
from karaoke_sets import ABSURD, FURTHER, SAMPLES, mixtures, songs
from scipy.stats import spearmanr

from pipeline.audio.reader import ArrayReader
from pipeline.karaoke import calibration as numbers
from pipeline.karaoke.evidence import Judge, gather
from pipeline.karaoke.score import from_evidence
from pipeline.models.separation import separate_track

JUDGES = ("spleeter", numbers.NO_JUDGE)
TARGETS = {"sdr": "SI-SDR", "residual_vocal": "residual voice", "damage": "damage"}
IN_FOLDS = {"development": " in folds", FURTHER: " in folds", "held out": ""}
LONG_SECONDS = 240
LEAST_SONGS = 3


def voice_threshold(found: Sequence[Row], judge: str) -> float:
    """Level of what a judge takes for a voice, dB, below which there is none: 1 dB below 99 of a hundred voices.

    A score of a song without a voice harms less than none of a song with one. Without a judge any centre counts as
    voice, so nothing short of none at all is taken for none.
    """
    if judge == numbers.NO_JUDGE:
        return -30.0
    voiced = {row.mixture: row.evidence.voice_db for row in usable(found)}
    return round(float(np.quantile(list(voiced.values()), 0.01)) - 1.0, 1)


def calibrated(found: Sequence[Row], judge: str) -> numbers.Model:
    """The model with its intervals."""
    voiced = usable(found)
    model = karaoke_fit.fit(voiced, judge, voice_threshold(found, judge))
    return karaoke_fit.with_intervals(model, voiced, judge)


def usable(found: Sequence[Row]) -> list[Row]:
    """The rows a regression is asked about: with a voice, and anything left."""
    return [row for row in found if row.voice_kind != "none" and not row.evidence.silent_instrumental]


def in_folds(found: Sequence[Row], judge: str) -> np.ndarray:
    """Prediction, low and high of each row by a calibration that knows nothing of its song: ``[rows, 3]``."""
    told = np.zeros((len(found), 3))
    for fold in karaoke_fit.folds(found):
        model = calibrated(karaoke_fit.part(found, ~fold), judge)
        told[fold] = answers({judge: model}, karaoke_fit.part(found, fold), judge)
    return told


def answers(models: dict[str, numbers.Model], found: Sequence[Row], judge: str) -> np.ndarray:
    """Prediction, low and high of each row, NaN where it is null: ``[rows, 3]``."""
    used = numbers.Calibration(models, "", "")
    told = [from_evidence(row.evidence, used, judge) for row in found]
    columns = [
        [s.karaoke_predicted_sdr_db, s.karaoke_predicted_sdr_db_low, s.karaoke_predicted_sdr_db_high]
        for s in told
    ]
    return np.array(columns, dtype=float)


def best_of_mixtures(found: Sequence[Row], values: np.ndarray) -> dict[str, list[str]]:
    """Each mixture's outputs that have the highest value; more than one where they are equal."""
    best = {}
    for mixture in sorted({row.mixture for row in found}):
        inside = [number for number, row in enumerate(found) if row.mixture == mixture]
        top = max(values[number] for number in inside)
        best[mixture] = [found[number].output for number in inside if values[number] >= top]
    return best


def line(title: str, found: Sequence[Row], told: np.ndarray) -> str:
    """One row of the table of figures."""
    voiced = np.array([row.voice_kind != "none" for row in found])
    rest, told = karaoke_fit.part(found, voiced), told[voiced]
    null = np.isnan(told[:, 0])
    rest, told = karaoke_fit.part(rest, ~null), told[~null]
    true = karaoke_fit.truths(rest, "sdr")
    real = np.array([row.output not in ABSURD for row in rest])
    wrong = np.abs(told[:, 0] - true)
    covered = (true >= told[:, 1] - 1e-9) & (true <= told[:, 2] + 1e-9)
    ranks = []
    for mixture in sorted({row.mixture for row in rest}):
        inside = np.array([row.mixture == mixture for row in rest]) & real
        if inside.sum() > 2:
            ranks.append(spearmanr(told[inside, 0], true[inside]).statistic)
    first = best_of_mixtures(rest, told[:, 0]).values()
    bad = [sum(name in names for names in first) for name in ("do-nothing", "silence")]
    return (
        f"| {title} | {real.sum()} | {wrong[real].mean():.2f} | {wrong.mean():.2f} |"
        f" {spearmanr(told[real, 0], true[real]).statistic:.3f} | {np.mean(ranks):.3f} |"
        f" {100 * covered[real].mean():.0f} % | {np.mean((told[:, 2] - told[:, 1])[real]):.1f} |"
        f" {bad[0]} and {bad[1]} of {len(first)} | {int(null.sum())} |"
    )


def common_line(title: str, found: Sequence[Row]) -> str:
    """How the formula in common use ranks the same outputs."""
    rest = [row for row in found if row.voice_kind != "none"]
    score = np.array([row.evidence.common.karaoke_score_common or 0.0 for row in rest])
    true = karaoke_fit.truths(rest, "sdr")
    real = np.array([row.output not in ABSURD for row in rest])
    first = best_of_mixtures(rest, score).values()
    bad = [sum(name in names for names in first) for name in ("do-nothing", "silence")]
    rho = spearmanr(score[real], true[real]).statistic
    return f"| {title} | {real.sum()} | – | – | {rho:.3f} | – | – | – | {bad[0]} and {bad[1]} of {len(first)} | 0 |"


def print_outputs(found: Sequence[Row], told: np.ndarray) -> None:
    """Per kind of output: truth, mean error and bias."""
    print("\n| output | true SI-SDR, dB | mean error, dB | bias, dB |\n| --- | --- | --- | --- |")
    true = karaoke_fit.truths(found, "sdr")
    known = ~np.isnan(told[:, 0])
    for name in sorted({row.output for row in found}):
        which = np.array([row.output == name and row.voice_kind != "none" for row in found]) & known
        wrong = (told[:, 0] - true)[which]
        print(f"| {name} | {true[which].mean():.1f} | {np.abs(wrong).mean():.2f} | {wrong.mean():+.2f} |")


def print_other_targets(found: Sequence[Row], models: dict[str, numbers.Model], title: str) -> None:
    """Mean errors of residual voice and damage; of development songs in folds, of others by the calibration."""
    rest = usable(found)
    real = np.array([row.output not in ABSURD for row in rest])
    for judge in JUDGES:
        alone = {} if models else karaoke_fit.unseen(rest, judge)
        for target in ("residual_vocal", "damage"):
            told = karaoke_fit.predictions(models[judge], rest, target) if models else alone[target]
            true = karaoke_fit.truths(rest, target)
            rho = spearmanr(told[real], true[real]).statistic
            error = np.abs(told - true)[real].mean()
            print(f"| {title} | {judge} | {TARGETS[target]} | {error:.2f} | {rho:.3f} |")


def print_cost(folder: Path, judge: Judge, backend: object) -> None:
    """Time of evidence and of Spleeter's separation of the same track."""
    song = next(iter(mixtures(songs([folder / "music"])[:1], folder, "development", LONG_SECONDS * 44100)))
    mix = song.mix
    start = time.perf_counter()
    stems = separate_track(backend, mix)
    separation = time.perf_counter() - start
    instrumental = ArrayReader(mix - stems[0])
    print(f"\n| track of {LONG_SECONDS} s, one thread | s | of Spleeter's separation |\n| --- | --- | --- |")
    print(f"| Spleeter's separation | {separation:.1f} | 1.00 |")
    for name, asked in (("judged by Spleeter", judge), ("no judge", None)):
        start = time.perf_counter()
        gather(ArrayReader(mix), instrumental, asked)
        spent = time.perf_counter() - start
        print(f"| score, {name} | {spent:.1f} | {spent / separation:.2f} |")


def share(typed: str) -> tuple[int, int]:
    """``1/2`` → 1, 2. Raises `ValueError`, of which argparse makes its line."""
    number, count = (int(digits) for digits in typed.split("/"))
    if not 1 <= number <= count:
        raise ValueError(typed)
    return number, count


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, default=REPO.parent / "shared" / "audio", help="music/, speech/"
    )
    parser.add_argument(
        "--more-music", type=Path, nargs="*", default=[], help="folders of songs without a singer"
    )
    parser.add_argument(
        "--further", type=Path, nargs="*", default=[], help="folders of songs for many voices"
    )
    parser.add_argument(
        "--held-out", type=Path, nargs="*", default=[], help="folders of songs to look at once"
    )
    parser.add_argument("--most", type=int, default=6, help="songs of a folder")
    parser.add_argument("--most-further", type=int, default=9, help="songs of a folder of these")
    parser.add_argument("--most-held-out", type=int, default=4, help="songs of a folder that is held out")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder that keeps separations and evidence"
    )
    parser.add_argument("--write", action="store_true", help="replace pipeline/karaoke/calibration.json")
    parser.add_argument(
        "--part", type=share, help="such as 1/2: gather that share of the evidence, and no more"
    )
    parser.add_argument("--no-cost", action="store_true", help="leave out the timing")
    options = parser.parse_args()
    if not (options.audio / "music").is_dir():
        parser.error(
            f"there is no music in {options.audio}: name a folder with music/ and speech/ by --audio"
        )
    return options


def print_tables(
    found: dict[str, list[Row]], fitted: Sequence[Row], models: dict[str, numbers.Model]
) -> None:
    """All figures of all sets: of those that were fitted by models without the song, of the others by the models."""
    own = np.arange(len(fitted)) < len(found["development"])
    unseen = {name: in_folds(fitted, name) for name in JUDGES}
    told = {
        "development": {name: values[own] for name, values in unseen.items()},
        FURTHER: {name: values[~own] for name, values in unseen.items()},
        "held out": {name: answers(models, found["held out"], name) for name in JUDGES},
    }
    sets = {which: part for which, part in found.items() if part}
    print("| set, judge | outputs | mean error, dB | of all | ρ | ρ in a mixture | 90 % interval holds |"
          " its width, dB | do-nothing, silence first | null |")  # fmt: skip
    print("| --- " * 10 + "|")
    for which, part in sets.items():
        for name in JUDGES:
            print(line(f"{which}{IN_FOLDS[which]}, {name}", part, told[which][name]))
        print(common_line(f"{which}, common formula", part))
    print("\n| set | judge | what | mean error, dB | ρ |\n| --- | --- | --- | --- | --- |")
    print_other_targets(fitted, {}, "in folds")
    if found["held out"]:
        print_other_targets(found["held out"], models, "held out")
    for which, part in sets.items():
        print(f"\n{which}{IN_FOLDS[which]}:")
        print_outputs(part, told[which]["spleeter"])
    for which, part in sets.items():
        alone = {row.song: row.evidence.voice_db for row in part if row.voice_kind == "none"}
        heard = [name for name, level in alone.items() if level >= models["spleeter"].voice_db]
        print(f"\n{which}: voice heard in {len(heard)} of {len(alone)} backings alone {heard or ''}")


def main() -> None:
    options = arguments()
    separated, judge = setup(options.cache)
    code = code_version(REPO)
    parts = {
        "development": songs([options.audio / "music", *options.more_music], options.most),
        FURTHER: songs(options.further, options.most_further),
        "held out": songs(options.held_out, options.most_held_out),
    }
    songs_known = len(parts["development"]) + len(parts[FURTHER])
    if songs_known < LEAST_SONGS:
        raise SystemExit(
            f"{songs_known} songs are too few for folds inside of folds: name more of them by --more-music FOLDER"
        )
    if options.part:
        number, count = options.part
        parts = {which: part[number - 1 :: count] for which, part in parts.items()}
    found = {
        which: list(rows(mixtures(part, options.audio, which), separated, judge, code, few=which == FURTHER))
        for which, part in parts.items()
    }
    if options.part:
        print(f"kept in {options.cache}: {sum(map(len, found.values()))} outputs")
        return
    fitted = found["development"] + found[FURTHER]
    models = {name: calibrated(fitted, name) for name in JUDGES}
    for which, part in parts.items():
        print(
            f"{which}: {len(part)} songs, {len(found[which])} outputs: {', '.join(song.name for song in part)}\n"
        )
    print_tables(found, fitted, models)
    if not options.no_cost:
        print_cost(options.audio, Judge("spleeter", judge.vocals.now), judge.vocals.backend)
    if options.write:
        names = ", ".join(song.name for which in ("development", FURTHER) for song in parts[which])
        told_of = f"{len(usable(fitted))} outputs of {SAMPLES / 44100:.1f} s over {names}; code {code}"
        path = REPO / "pipeline" / "karaoke" / numbers.FILE
        path.write_text(numbers.to_json(models, told_of))
        print(f"\n{path.relative_to(REPO)} is version {numbers.from_json(path.read_text()).version}")


if __name__ == "__main__":
    main()
