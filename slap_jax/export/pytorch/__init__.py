"""SLAP in PyTorch: embeds and captions sound with the weights that slap_jax's `slap export` wrote.

This file needs torch, numpy and safetensors (and sentencepiece or tokenizers for `tokenize`) but not slap_jax, so it
can be copied anywhere.

    import slap_torch

    model = slap_torch.load("EXPORT_DIRECTORY")
    audio = model.embed_audio(waveforms, lengths)               # [B, S] mono, zero-padded; [B] samples of each
    text = model.embed_text(*model.tokenize(["a dog barks"]))
    audio @ text.T                                              # cosine similarity

A clip gets the same vector alone and padded in a batch. The computation uses the dtype of the weights, float32 as
stored; under `torch.autocast` the front end stays in float32. Memory grows with the square of the longest clip: embed
clips of more than a minute or two in windows.

Shapes: B clips in a batch, S samples, C columns of 160 ms, L = C x F audio tokens, T text tokens, W width, E embedding
size.
"""
