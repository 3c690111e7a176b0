"""SLAP in PyTorch: embeds and captions sound with the weights that `slap export` of slap_jax wrote.

This file needs torch, numpy and safetensors (and sentencepiece for `tokenize`), nothing of slap_jax: copy it anywhere.

    import slap_torch

    model = slap_torch.load("EXPORT_DIRECTORY")
    audio = model.embed_audio(waveforms, lengths)               # [B, S] mono, zero-padded; [B] samples of each
    text = model.embed_text(*model.tokenize(["a dog barks"]))
    audio @ text.T                                              # cosine similarity

A clip alone and the same clip padded in a batch get the same vector. Everything is computed in the type of the weights,
float32 as they are stored; under `torch.autocast` the front end stays in float32. Memory grows with the square of the
longest clip: embed clips of more than a minute or two in windows.

B clips in a batch, S samples, C columns of 160 ms, L = C x F audio tokens, T text tokens, W width, E embedding size.
"""
