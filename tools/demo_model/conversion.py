"""The trained network to a CTranslate2 folder, by way of transformers, whose Whisper gives the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from demo_model import network
from demo_model.features import MELS
from demo_model.vocabulary import LONGEST, Vocabulary

QUANTIZATION = "int8_float16"
_TOLERANCE = 1e-3
_SECONDS = 30

_PREPROCESSOR = {
    "chunk_length": _SECONDS,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": MELS,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": _SECONDS * 16_000,
    "nb_max_frames": _SECONDS * 100,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16_000,
}


def _transformers(weights: dict[str, Any], vocabulary: Vocabulary) -> Any:
    """Return transformers' Whisper with our weights.  Raises ValueError where it computes something else."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=vocabulary.size,
        num_mel_bins=MELS,
        d_model=network.WIDTH,
        encoder_layers=network.ENCODER_LAYERS,
        decoder_layers=network.DECODER_LAYERS,
        encoder_attention_heads=network.ENCODER_HEADS,
        decoder_attention_heads=network.DECODER_HEADS,
        encoder_ffn_dim=network.FEED_FORWARD,
        decoder_ffn_dim=network.FEED_FORWARD,
        max_source_positions=network.POSITIONS,
        max_target_positions=LONGEST,
        pad_token_id=vocabulary.eot,
        bos_token_id=vocabulary.eot,
        eos_token_id=vocabulary.eot,
        decoder_start_token_id=vocabulary.sot,
        suppress_tokens=None,  # those of the generation below would lose against them
        begin_suppress_tokens=None,
    )
    theirs = WhisperForConditionalGeneration(config)
    ours = network.Whisper(
        vocabulary.first_timestamp, weights["phoneme.weight"].shape[0], weights["token.weight"].shape[0]
    )
    ours.load_state_dict(weights)
    table = ours.decoder.embeddings().detach().clone()
    kept = {
        f"model.{name}": value
        for name, value in weights.items()
        if name.startswith(("encoder.", "decoder.")) and not name.startswith(("decoder.text", "decoder.time"))
    }
    kept["model.decoder.embed_tokens.weight"] = kept["proj_out.weight"] = table
    theirs.load_state_dict(kept)
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        mel, tokens = torch.randn(1, MELS, 3000), torch.randint(0, vocabulary.size, (1, 12))
        written, _, _ = ours.decoder(tokens[:, None], ours.encoder(mel, torch.zeros(1, dtype=torch.long))[0])
        other = theirs(input_features=mel, decoder_input_ids=tokens).logits
        difference = float((written[:, 0] @ table.T - other).abs().max())
    if difference > _TOLERANCE:
        raise ValueError(
            f"transformers' Whisper differs from ours by {difference:.2g} (at most {_TOLERANCE:g}); see network.py"
        )
    theirs.generation_config = GenerationConfig(
        suppress_tokens=[],
        # Only the space, so that silence may give an empty text.
        begin_suppress_tokens=vocabulary.encoded(" ").ids,
        eos_token_id=vocabulary.eot,
        pad_token_id=vocabulary.eot,
        decoder_start_token_id=vocabulary.sot,
        max_length=LONGEST,
    )
    theirs.generation_config.alignment_heads = [list(head) for head in network.ALIGNMENT_HEADS]
    theirs.generation_config.lang_to_id = {f"<|{name}|>": id_ for name, id_ in vocabulary.language.items()}
    return theirs


def convert(work: Path, out: Path) -> dict[str, int]:
    """Write ``work/model.pt`` as a CTranslate2 folder to ``out``; returns its files and their sizes in bytes."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import PreTrainedTokenizerFast

    tokenizer = work / "tokenizer.json"
    model = _transformers(torch.load(work / "model.pt", map_location="cpu"), Vocabulary.load(tokenizer))
    folder = work / "transformers"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), eos_token=end, bos_token=end, unk_token=end
    ).save_pretrained(folder)
    shutil.copy(tokenizer, folder)  # as it was: save_pretrained adds to it
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    TransformersConverter(str(folder), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
        str(out), quantization=QUANTIZATION, force=True
    )
    return {path.name: path.stat().st_size for path in sorted(out.iterdir())}
