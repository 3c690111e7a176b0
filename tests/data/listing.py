"""Helpers that list the entries and rejections of a collection."""

from slap_jax.data.collections.entries import Collection, Entry, Rejection


def listed(collection: Collection) -> tuple[list[Entry], list[Rejection]]:
    """Lists a whole collection."""
    clips = list(collection.entries())
    entries = [clip for clip in clips if isinstance(clip, Entry)]
    rejections = [clip for clip in clips if isinstance(clip, Rejection)]
    return entries, rejections


def reasons(collection: Collection) -> dict[str, str]:
    """Returns where -> reason of the rejections."""
    return {rejection.where: rejection.reason for rejection in listed(collection)[1]}
