import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.languages import display_name, normalise


@pytest.mark.parametrize(
    ("code", "iso"),
    [
        ("id", "ind"),
        ("ind", "ind"),
        ("ind_Latn", "ind"),
        ("jav_Latn", "jav"),
        ("jv", "jav"),
        ("en_US", "eng"),
        ("pt-BR", "por"),
        ("ger", "deu"),
        ("ENG", "eng"),
        ("zho_Hans", "zho"),  # a macro-language stays one
        ("zsm_Latn", "zsm"),
        ("tgl_Latn", "tgl"),  # CLDR would make fil of it
        ("tl", "tgl"),
        ("prs_Arab", "prs"),
        ("qci", "qci"),  # private use, but well formed
    ],
)
def test_every_style_of_code_becomes_iso_639_3(code, iso):
    assert normalise(code) == iso
    assert normalise(normalise(code)) == iso


@pytest.mark.parametrize("code", ["", "x", "english", "12", "und"])
def test_what_is_no_language_is_refused_by_name(code):
    with pytest.raises(ConfigError, match=f"language code '{code}'.*ISO 639-3"):
        normalise(code)


@pytest.mark.parametrize(
    ("code", "english", "indonesian"),
    [
        ("eng", "English", "Inggris"),
        ("ind", "Indonesian", "Indonesia"),
        ("sun", "Sundanese", "Sunda"),
        ("jav", "Javanese", "Jawa"),
        ("bug", "Buginese", "Bugis"),
        ("ace", "Acehnese", "Aceh"),
        ("bjn", "Banjar", "Banjar"),
        ("ban", "Balinese", "Bali"),
        ("min", "Minangkabau", "Minangkabau"),
        ("mad", "Madurese", "Madura"),
        ("nij", "Ngaju", "Ngaju"),
        ("bbc", "Batak Toba", "Batak Toba"),
        ("zsm", "Standard Malay", "Melayu Baku"),
        ("tgl", "Tagalog", "Tagalog"),
        ("arb", "Standard Arabic", "Arab Baku"),
        ("deu", "German", "Jerman"),
        ("jav_Latn", "Javanese", "Jawa"),
        ("zho_Hans", "Chinese", "Tionghoa"),
        ("zho_Hant", "Chinese (Traditional)", "Tionghoa (Tradisional)"),
        ("ace_Arab", "Acehnese (Arabic)", "Aceh (Arab Persia)"),
    ],
)
def test_names_read_well_after_from_and_after_bahasa(code, english, indonesian):
    assert display_name(code) == english
    assert display_name(code, "ind") == indonesian


def test_english_name_where_the_wording_language_has_none():
    assert display_name("nij", "tha") == "Ngaju"


def test_unknown_code_names_the_cure():
    with pytest.raises(ConfigError, match=r"'qci'.*languages\.names\.qci"):
        display_name("qci", "ind", {"other": {"eng": "Other"}})


def test_own_names_come_first_and_lend_english():
    names = {"qci": {"eng": "Cipher", "ind": "Sandi"}, "jav": {"eng": "Old Javanese"}}
    assert display_name("qci", "ind", names) == "Sandi"
    assert display_name("qci", "deu", names) == "Cipher"
    assert display_name("jav", "eng", names) == "Old Javanese"
    assert display_name("sun", "eng", names) == "Sundanese"
