import pytest

from slap_jax.data.datasets.reading import licence_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by/3.0/", "CC-BY-3.0"),
        ("http://creativecommons.org/licenses/by-nc/4.0/legalcode", "CC-BY-NC-4.0"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "CC-SAMPLING+-1.0"),
        ("creativecommons.org/licenses/by", "CC-BY"),
        (" see the website ", "see the website"),
        ("", ""),
    ],
)
def test_licence_names(text, name):
    assert licence_name(text) == name
