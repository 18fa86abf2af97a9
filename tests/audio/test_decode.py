from __future__ import annotations

import io
from fractions import Fraction

import av
import librosa
import numpy as np
import pytest
import soundfile

from pipeline.audio.decode import Decoded, decode, probe
from pipeline.audio.encode import encode
from pipeline.audio.resample import resample

RATE = 48000
# Containers whose samples come back as they went in, and the step of their integers.
LOSSLESS = {"wav": 2**-15, "flac": 2**-15, "aiff": 2**-15, "mkv": 2**-23}
LOSSY = {
    "ogg": ("ogg", "vorbis"),
    "mp3": ("mp3", "mp3"),
    "m4a": ("m4a", "aac"),
    "mp4": ("mp4", "aac"),
    "aac": ("aac", "aac"),
    "opus": ("ogg", "opus"),
    "webm": ("webm", "opus"),
    "wma": ("asf", "wmav2"),
}


def signal(channels: int = 2, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    """Another chirp plus low noise in every channel: its position in time cannot be mistaken."""
    rng = np.random.default_rng(channels)
    t = np.arange(round(seconds * rate)) / rate
    top = min(4000, rate / 4)
    rows = [
        0.4 * np.sin(2 * np.pi * (200 + 150 * c + (top - 200) / seconds / 2 * t) * t) for c in range(channels)
    ]
    return (np.stack(rows) + 0.01 * rng.standard_normal((channels, t.size))).astype(np.float32)


def written(samples: np.ndarray, rate: int, format_: str, subtype: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples.T, rate, format=format_, subtype=subtype)
    return out.getvalue()


def aligned(x: np.ndarray, y: np.ndarray) -> tuple[int, float]:
    """Lag of ``y`` behind ``x`` and the smallest correlation of a channel there."""
    size = 2 * max(x.shape[1], y.shape[1])
    cross = np.fft.irfft(np.fft.rfft(y[0], size) * np.conj(np.fft.rfft(x[0], size)))
    lag = int(np.argmax(cross))
    lag = lag - size if lag > size // 2 else lag
    a, b = x[:, max(0, -lag) :], y[:, max(0, lag) :]
    count = min(a.shape[1], b.shape[1])
    return lag, min(np.corrcoef(p[:count], q[:count])[0, 1] for p, q in zip(a, b, strict=True))


def check_shape(decoded: Decoded, rate: int, channels: int) -> None:
    assert decoded.samples.dtype == np.float32
    assert decoded.samples.flags.c_contiguous
    assert (decoded.sample_rate, decoded.channels, decoded.samples.shape[0]) == (rate, channels, channels)
    assert decoded.duration_s == decoded.samples.shape[1] / rate


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize(("container", "step"), LOSSLESS.items())
def test_lossless_containers_return_every_sample(container, step, channels):
    x = signal(channels)
    decoded = decode(encode(x, RATE, container))
    check_shape(decoded, RATE, channels)
    assert decoded.samples.shape == x.shape
    assert np.abs(decoded.samples - x).max() <= step
    assert decoded.container == ("matroska" if container == "mkv" else container)
    assert decoded.replaced_samples == 0


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("container", LOSSY)
def test_lossy_containers_sound_the_same(container, channels):
    x = signal(channels)
    data = encode(x, RATE, container)
    decoded = decode(data)
    check_shape(decoded, RATE, channels)
    assert (decoded.container, decoded.codec) == LOSSY[container]
    lag, correlation = aligned(x, decoded.samples)
    assert correlation > 0.99
    # Bare AAC and WMA keep the encoder's delay; all others take it out.
    assert lag == 0 or container in ("aac", "wma")
    header = probe(data)
    assert (header.container, header.codec) == LOSSY[container]
    assert (header.sample_rate, header.channels) == (RATE, channels)


@pytest.mark.parametrize(("channels", "container"), [(6, "ogg"), (8, "ogg"), (6, "opus"), (8, "opus")])
def test_surround_comes_out_in_wav_order(channels, container):
    # Low tones only: encoders cut the LFE channel.
    t = np.arange(RATE) / RATE
    tones = 40 + 10 * np.arange(channels)
    x = 0.1 * np.sin(2 * np.pi * tones[:, None] * t).astype(np.float32)
    decoded = decode(encode(x, RATE, container, bit_rate=512_000))
    assert decoded.channels == channels
    peaks = np.abs(np.fft.rfft(decoded.samples[:, :RATE])).argmax(axis=1)
    np.testing.assert_allclose(peaks, tones, atol=1)


@pytest.mark.parametrize(
    ("format_", "subtype", "codec", "step"),
    [
        ("WAV", "PCM_U8", "pcm_u8", 2**-7),
        ("WAV", "PCM_24", "pcm_s24le", 2**-23),
        ("WAV", "PCM_32", "pcm_s32le", 2**-24),
        ("WAV", "FLOAT", "pcm_f32le", 0),
        ("WAV", "DOUBLE", "pcm_f64le", 0),
        ("WAV", "ULAW", "pcm_mulaw", 0.02),
        ("WAV", "ALAW", "pcm_alaw", 0.02),
        ("RF64", "PCM_16", "pcm_s16le", 2**-15),
        ("AIFF", "PCM_S8", "pcm_s8", 2**-7),
        ("AIFF", "PCM_24", "pcm_s24be", 2**-23),
        ("FLAC", "PCM_24", "flac", 2**-23),
        ("CAF", "PCM_16", "pcm_s16be", 2**-15),
        ("AU", "PCM_16", "pcm_s16be", 2**-15),
        ("W64", "PCM_24", "pcm_s24le", 2**-23),
    ],
)
def test_every_width_is_scaled_to_one(format_, subtype, codec, step):
    x = signal(2, seconds=0.25)
    decoded = decode(written(x, RATE, format_, subtype))
    assert decoded.codec == codec
    assert decoded.samples.shape == x.shape
    assert np.abs(decoded.samples - x).max() <= step


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 96000, 192000])
@pytest.mark.parametrize("container", ["wav", "flac", "aiff", "mkv"])
def test_rates(container, rate):
    x = signal(1, rate, 0.3)
    decoded = decode(encode(x, rate, container))
    check_shape(decoded, rate, 1)
    assert np.abs(decoded.samples - x).max() <= LOSSLESS[container]


@pytest.mark.parametrize("container", ["wav", "flac", "aiff", "ogg", "mp3", "mkv", "opus"])
def test_one_sample(container):
    decoded = decode(encode(np.full((1, 1), 0.5, np.float32), RATE, container))
    # Opus knows no frame shorter than 2.5 ms.
    assert 1 <= decoded.samples.shape[1] <= 960


def test_input_may_be_a_memoryview_and_the_name_does_not_matter():
    x = signal()
    data = encode(x, RATE, "flac")
    decoded = decode(memoryview(data), "s3://bucket/misnamed.mp3")
    np.testing.assert_array_equal(decoded.samples, decode(data).samples)
    assert decoded.container == "flac"


def video(with_sound: bool) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        picture = file.add_stream("mpeg4", rate=5)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        sound = file.add_stream("aac", rate=RATE, layout="mono") if with_sound else None
        if sound is not None:
            # Before the header is written, or the muxer does not learn of the encoder's delay.
            sound.codec_context.open()
        for shade in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * shade, np.uint8), format="rgb24")
            file.mux(picture.encode(frame))
        file.mux(picture.encode(None))
        if sound is not None:
            whole = av.AudioFrame.from_ndarray(signal(1), format="fltp", layout="mono")
            whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
            cutter = av.AudioResampler(format=sound.format, layout="mono", rate=RATE, frame_size=1024)
            for frame in [*cutter.resample(whole), *cutter.resample(None), None]:
                file.mux(sound.encode(frame))
    return out.getvalue()


def test_sound_track_of_a_video():
    decoded = decode(video(with_sound=True))
    check_shape(decoded, RATE, 1)
    assert (decoded.container, decoded.codec) == ("mp4", "aac")
    lag, correlation = aligned(signal(1), decoded.samples)
    assert (lag, correlation > 0.99) == (0, True)


def test_a_change_of_rate_and_channels_keeps_the_first_format():
    stereo, mono = signal(2), signal(1, 24000)
    first = decode(encode(stereo, RATE, "aac"))
    decoded = decode(encode(stereo, RATE, "aac") + encode(mono, 24000, "aac"))
    check_shape(decoded, RATE, 2)
    assert decoded.duration_s == pytest.approx(first.duration_s + 1.0, abs=0.15)
    _, correlation = aligned(np.repeat(resample(mono, 24000, RATE), 2, axis=0), decoded.samples[:, RATE:])
    assert correlation > 0.98


def test_joined_files_are_read_to_the_end():
    a, b = signal(2), signal(2)[:, ::-1]
    for container in ("mp3", "ogg"):
        decoded = decode(encode(a, RATE, container) + encode(b, RATE, container))
        # libsndfile would stop after the first: it trusts that part's header.
        assert decoded.duration_s == pytest.approx(2.0, abs=0.1)
        assert aligned(np.ascontiguousarray(b), decoded.samples[:, RATE:])[1] > 0.95


def test_variable_bit_rate_mp3_without_a_frame_count():
    # Half noise, half silence: the first frame's bit rate says nothing about the length.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 10 * 44100)).astype(np.float32) * 0.2
    x[:, 5 * 44100 :] = 0
    out = io.BytesIO()
    with av.open(out, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as file:
        options = {"flags": "+qscale", "global_quality": "472"}
        stream = file.add_stream("libmp3lame", rate=44100, layout="mono", options=options)
        whole = av.AudioFrame.from_ndarray(x, format="fltp", layout="mono")
        whole.sample_rate = 44100
        cutter = av.AudioResampler(format=stream.format, layout="mono", rate=44100, frame_size=1152)
        for frame in [*cutter.resample(whole), *cutter.resample(None), None]:
            file.mux(stream.encode(frame))
    assert decode(out.getvalue()).duration_s == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize(
    ("riff_size", "data_size"), [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0x7FFFF024, 0x7FFFF000)]
)
def test_wav_from_a_pipe_has_no_length(riff_size, data_size):
    x = signal()
    data = bytearray(encode(x, RATE, "wav"))
    data[4:8], data[40:44] = riff_size.to_bytes(4, "little"), data_size.to_bytes(4, "little")
    decoded = decode(bytes(data))
    assert np.abs(decoded.samples - x).max() <= 2**-15
    assert decoded.codec == "pcm_s16le"


@pytest.mark.parametrize("container", ["mp3", "flac", "aac"])
def test_id3_tag_in_front(container):
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    data = encode(signal(), RATE, container)
    np.testing.assert_array_equal(decode(tag + data).samples, decode(data).samples)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_junk_around_mp3_frames(where):
    x = signal()
    data = encode(x, RATE, "mp3")
    decoded = decode(bytes(700) + data if where == "before" else data + b"TAG" + bytes(125))
    assert aligned(x, decoded.samples)[1] > 0.99


def test_probe_tells_what_decode_finds():
    for container in ("wav", "flac", "aiff", "ogg", "mp3", "mkv", "m4a"):
        data = encode(signal(1), RATE, container)
        header, decoded = probe(data), decode(data)
        assert (header.container, header.codec) == (decoded.container, decoded.codec)
        assert (header.sample_rate, header.channels) == (RATE, 1)
        assert header.duration_s == pytest.approx(1.0, abs=0.03)


def test_real_files_equal_soundfile_and_librosa(shared_audio):
    songs = sorted((shared_audio / "music").rglob("*.ogg"))[:2]
    prompts = [
        path
        for folder in sorted((shared_audio / "speech").iterdir())
        for path in sorted(folder.iterdir())[:2]
    ]
    assert songs
    assert prompts
    for path in [*songs, *prompts]:
        decoded = decode(path.read_bytes(), path.name)
        reference, rate = soundfile.read(path, dtype="float32", always_2d=True)
        check_shape(decoded, rate, reference.shape[1])
        np.testing.assert_array_equal(decoded.samples, reference.T)
        by_librosa, rate = librosa.load(path, sr=None, mono=False)
        assert rate == decoded.sample_rate
        np.testing.assert_array_equal(decoded.samples, np.atleast_2d(by_librosa))
