import subprocess
import sys

import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.languages import canonical, display_name, macrolanguage, normalise, script_of, usual_script


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


@pytest.mark.parametrize(
    ("code", "one"),
    [
        ("id", "ind"),
        ("id-ID", "ind"),
        ("ind_Latn", "ind"),
        ("jav_Latn", "jav"),
        ("jav_Java", "jav_Java"),
        ("ace_Latn", "ace"),
        ("ace_Arab", "ace_Arab"),
        ("zho", "zho"),
        ("zh-Hans", "zho"),
        ("zho_Hant", "zho_Hant"),
        ("zh-TW", "zho_Hant"),  # the region says which script
        ("pa-PK", "pan_Arab"),
        ("en-US", "eng"),
        ("sr", "srp"),
        ("sr-Latn", "srp_Latn"),
        ("cnr", "cnr"),
        ("sh", "hbs"),
        ("msa", "msa"),
        ("ar", "ara"),
        ("ajp_Arab", "ajp"),  # CLDR does not know it; its macro-language does
        ("azb_Arab", "azb"),
        ("kor_Hang", "kor"),  # the usual mixture Kore holds Hang
        ("knc_Latn", "knc"),
        ("knc_Arab", "knc_Arab"),
        ("qci", "qci"),
    ],
)
def test_one_form_of_each_language(code, one):
    assert canonical(code) == one
    assert canonical(one) == one


def test_a_script_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"'jav_Ltin' has no known script.*jav_Latn"):
        canonical("jav_Ltin")


def test_the_usual_script():
    assert [usual_script(c) for c in ("jv", "ajp", "zho", "khm", "azb")] == ["Latn", "Arab", "Hans", "Khmr", "Arab"]
    assert [script_of(c) for c in ("ace", "ace_Arab", "zh-TW")] == ["Latn", "Arab", "Hant"]


@pytest.mark.parametrize(
    ("code", "above"),
    [("id", "msa"), ("zsm", "msa"), ("cmn", "zho"), ("arb", "ara"), ("prs", "fas"), ("jav", None), ("qci", None)],
)
def test_macro_languages(code, above):
    assert macrolanguage(code) == above
    assert canonical(code) != above


@pytest.mark.parametrize("spoken", ["eng", "ind"])
def test_no_name_carries_a_remark_of_the_registry(spoken):
    assert [display_name(c, spoken) for c in ("zlm", "msa")] == (["Malay"] * 2 if spoken == "eng" else ["Melayu"] * 2)


def test_a_name_of_the_config_is_found_in_any_style_of_code():
    names = {"ind": {"eng": "Bahasa"}}
    assert display_name("id", "en", names) == display_name("ind_Latn", "eng", names) == "Bahasa"


def test_the_tables_are_not_read_at_import():
    code = "import ialign_ray, ialign_ray.config, sys; sys.exit('langcodes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
