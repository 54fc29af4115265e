import itertools
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ialign_ray.config.cleaning import CleaningConfig, Step
from ialign_ray.corpus.cleaning import make_step
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.cleaning.writing import expand, scripts_of, unicode_name
from ialign_ray.corpus.schema import languages, schema
from ialign_ray.errors import ConfigError
from ialign_ray.languages import canonical

ROW_STEPS = ["normalise", "characters", "empty", "identical", "length", "script", "numbers", "links"]


def table(**columns):
    rows = len(next(iter(columns.values())))
    meta = {"id": [f"c:{k}" for k in range(rows)], "file": [0] * rows, "line": [*range(1, rows + 1)]}
    return pa.table({**meta, **columns}, schema=schema(list(columns)))


def run(step, data, pivots=("eng",)):
    settings = TypeAdapter(Step).validate_python({"step": step} if isinstance(step, str) else step)
    return make_step(settings)(data, Scope(languages(data), [p for p in pivots if p in data.column_names]))


def rewritten(step, texts, code="ind"):
    outcome = run(step, table(**{code: texts}))
    result = outcome.table[code].to_pylist()
    assert outcome.changed[code] == sum(a != b for a, b in zip(texts, result))
    return result


def drops(step, code="ind", **columns):
    """Which cells of the last language are dropped."""
    data = table(**columns)
    outcome = run(step, data)
    for name, mask in outcome.dropped.items():
        assert mask.dtype == bool
        assert len(mask) == len(data)
        assert not mask[~data[name].is_valid().to_numpy()].any(), "a null cell cannot be dropped"
    return outcome.dropped.get(list(columns)[-1], np.zeros(len(data), bool)).tolist()


@given(
    st.lists(st.none() | st.text(alphabet="ae\u0301é \t\n\x1c\x85\xa0\u2028\u3000가\u1100\u1161ﬁन\u093c"), max_size=8)
)
@pytest.mark.parametrize("form", ["NFC", "NFKC", "NFD", "NFKD"])
def test_normalise_is_pythons_normalisation_and_split(form, texts):
    expected = [t if t is None else " ".join(unicodedata.normalize(form, t).split()) for t in texts]
    assert rewritten({"step": "normalise", "form": form}, texts) == expected


def test_normalise_leaves_what_is_in_order_as_it_is():
    texts = ["Été à Århus", None, "", "ไทย", "한국어"]
    data = table(ind=texts)
    outcome = run("normalise", data)
    assert outcome.table is data
    assert outcome.changed == {"ind": 0}


@pytest.mark.parametrize(
    ("code", "text", "clean"),
    [
        ("ind", "a\x00b\x07c\x9f", "abc"),
        ("ind", "\ufeffawal kata", "awal kata"),
        ("ind", "\ufeff awal \u200b kata \u200b", "awal kata"),  # no white space is left where it stood
        ("ind", "so\u00adal", "soal"),
        ("ind", "tab\tdan\nbaris", "tab\tdan\nbaris"),
        ("arb", "\u200fمرحبا\u200e \u202bعالم\u202c \u2067ا\u2069", "مرحبا عالم ا"),
        ("pes", "می\u200cخواهم", "می\u200cخواهم"),
        ("hin", "क्\u200dष", "क्\u200dष"),
        ("ind", "a\u200cb\u200dc", "abc"),
        ("khm", "ខ្ញុំ\u200bទៅ", "ខ្ញុំ\u200bទៅ"),
        ("tha", "ไทย\u200bดี", "ไทย\u200bดี"),
        ("arb", "مر\u200bحبا", "مرحبا"),
        ("mon", "а\u180eб", "аб"),
        ("mon_Mong", "ᠠ\u180eᠡ", "ᠠ\u180eᠡ"),
        ("ind", "👩🏽\u200d💻 ❤\ufe0f\u200d🔥 👩\u200d👧", "👩🏽\u200d💻 ❤\ufe0f\u200d🔥 👩\u200d👧"),
        ("ind", "👩\u200d \u200d👧", "👩 👧"),
        ("fra", "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f", None),  # the flag of Wales
        ("fra", "a\U000e0067b", "ab"),
        # as the letters beside them need it, whatever the language
        ("azb", "گؤزل\u200cلیک", None),
        ("ctg", "ক্\u200dষ", None),
        ("qci", "می\u200cروم", None),
        ("mvf", "ᠮᠣᠩᠭᠣᠯ\u180eᠠ", None),
        ("eng", "the word می\u200cروم means I go", None),
        ("mai", "𑒣𑒹\u200d𑒟", None),
        ("brx", "क्\u200c ", None),
        ("kac", "ကျ\u200bန", None),
        ("ind", "\ufffe\U0001ffff\ufdd0x\U000e0041", "x"),
        ("qci", "a\u200db", "ab"),
        ("zho", "中\u2060文", "中文"),
    ],
)
def test_characters(code, text, clean):
    assert rewritten("characters", [text, None, "utuh"], code) == [clean or text, None, "utuh"]


def test_a_space_that_joins_a_mongolian_suffix_stays():
    texts = ["ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ", "10\u202f000", "\u202fᠤᠨ"]
    assert rewritten("normalise", texts, "mon_Mong") == [texts[0], "10 000", texts[2]]
    assert rewritten("characters", ["ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ\x00"], "mon_Mong") == ["ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ"]


def test_characters_joiners_do_not_reach_into_the_next_text():
    assert rewritten("characters", ["👩\u200d", "👧", "\u200d👧"]) == ["👩", "👧", "👧"]


def test_characters_drops_damaged_texts():
    assert drops("characters", eng=["a", "b", None], ind=["caf\ufffd", "utuh", None]) == [True, False, False]


def test_characters_drops_burmese_in_zawgyi():
    zawgyi = "ျမန္မာႏိုင္ငံသည္ အေရွ႕ေတာင္အာရွတြင္ တည္ရွိသည္"
    good = ["မြန်မာနိုင်ငံသည် အရှေ့တောင်အာရှတွင် တည်ရှိသည်", "ကျေးဇူးတင်ပါတယ်", "ဩဂုတ်လ", "မိူင်းတႆး ပဵၼ် မိူင်းဢၼ်မီး", None, "x"]
    assert drops("characters", eng=["x"] * 7, mya=[zawgyi, *good]) == [True] + [False] * 6


def test_empty():
    texts = ["", " ", "?!… —", "🙂", None, "7", "字", "ก", "ا", "a"]
    assert drops("empty", ind=texts) == [True] * 4 + [False] * 6


def test_identical():
    eng = ["Hello, World!", "2024", "Hello", None, "Hello", "Ice cream", "🙂", "C3PO", "ÉTÉ"]
    ind = ["hello world", "2024", "Halo", "Hello", None, "icecream", "🙂", "c3po", "e\u0301te\u0301"]
    assert drops("identical", eng=eng, ind=ind) == [True, False, False, False, False, True, False, True, True]


def test_identical_compares_with_every_pivot_and_spares_the_pivots():
    data = table(eng=["x", "x", "x"], ind=["y", "x", "y"], jav=["y", "z", "x"])
    outcome = run("identical", data, pivots=("eng", "ind"))
    assert {code: mask.tolist() for code, mask in outcome.dropped.items()} == {"jav": [True, False, True]}


def test_length_of_characters_words_and_the_longest_word():
    step = {"step": "length", "max_characters": 40, "max_words": 5, "max_word_characters": 12}
    texts = ["x " * 5, "x " * 6, "y" * 12, "y" * 13, "a bb ccc" * 6, None, "", "é" * 12, "a\u00a0b\u3000c d e f"]
    assert drops(step, ind=texts) == [False, True, False, True, True, False, False, False, True]


def test_length_knows_that_some_languages_put_no_spaces():
    step = {"step": "length", "max_word_characters": 12}
    assert drops(step, tha=["ก" * 13]) == drops(step, zho=["中" * 13]) == drops(step, khm=["ក" * 13]) == [False]
    assert drops(step, arb=["ا" * 13]) == drops(step, kor=["가" * 13]) == [True]


@pytest.mark.parametrize(
    ("code", "good", "bad"),
    [
        ("ind", ["Halo dunia", "Ünïcödé", "123 (%)", "Halo мир dunia"], ["Привет мир", "مرحبا يا صديقي ok", "中文"]),
        ("ace_Arab", ["مرحبا"], ["halo"]),
        ("arb", ["مرحبا بالعالم ABC"], ["hello"]),
        ("tha", ["ไทย", "กำลัง 100%"], ["thai", "ខ្ញុំ"]),
        ("khm", ["ខ្ញុំ\u200bទៅ"], ["ไทย"]),
        ("zho", ["中文", "𠀀𠀁"], ["ひらがな", "abc"]),
        ("jpn", ["ひらがなカタカナ漢字ー"], ["한국어"]),
        ("kor", ["한국어 漢字"], ["ひらがな"]),
        ("hin", ["नमस्ते दुनिया"], ["namaste"]),
        ("srp", ["Здраво", "Zdravo"], ["你好"]),
        ("srp_Latn", ["Zdravo"], ["Здраво"]),
        ("qci", ["anything", "что угодно"], []),  # nobody knows its script
        ("qci", ["katong", "что угодно"], []),  # nobody knows a private code
    ],
)
def test_script(code, good, bad):
    data = {code: [*good, *bad, None, ""]}
    assert drops("script", **data) == [False] * len(good) + [True] * len(bad) + [False, False]


def test_script_minimum_is_a_share_of_the_letters():
    for minimum, expected in ((0.5, [False, True]), (0.4, [False, False]), (0.6, [True, True])):
        assert drops({"step": "script", "minimum": minimum}, ind=["ab1!вг", "abвгд"]) == expected


def test_script_of_the_users_own():
    texts = ["ꦲꦏ꧀ꦱꦫ", "aksara"]
    assert drops("script", jav=texts) == [True, False]
    assert drops({"step": "script", "scripts": {"jav": ["Java"]}}, jav=texts) == [False, True]
    assert drops({"step": "script", "scripts": {"jav": ["Java", "Latn"]}}, jav=texts) == [False, False]
    with pytest.raises(ConfigError, match=r"cleaning\.steps: script 'Javanese' of jav .* ISO 15924"):
        run({"step": "script", "scripts": {"jav": ["Javanese"]}}, table(jav=["x"]))


def test_script_survives_a_very_long_text():
    assert drops(
        {"step": "script", "minimum": 0.5}, ind=["а" * 70_000 + "a" * 70_001, "а" * 70_001 + "a" * 70_000]
    ) == [False, True]


@pytest.mark.parametrize(
    ("one", "two", "bad"),
    [
        ("in 1999", "tahun 1999", False),
        ("in 1999", "tahun 1998", True),
        ("1,000 people", "1.000 orang", False),
        ("10,000 people", "10 000 orang", False),
        ("born 12 May, 10,000 strong", "10 000 orang, lahir 12 Mei", False),
        ("3.5 and 7", "7 dan 3,5", False),
        ("٣ كتب", "3 books", False),
        ("१२ दिन", "12 days", False),
        ("three books", "3 buku", True),
        ("no numbers", "tanpa angka", False),
        ("1 2 3 4", "1 2 3", False),
        ("1 2 3 4", "1", True),
        ("5 5", "5", False),
        ("5 5 5", "5", True),
        ("007", "7", False),
        ("②", "2", True),  # no decimal digit
        ("9" * 5000, "9" * 4999 + "8", True),
    ],
)
def test_numbers(one, two, bad):
    assert drops("numbers", eng=[one, one, None], ind=[two, None, two]) == [bad, False, False]


@pytest.mark.parametrize(
    ("one", "two", "bad"),
    [
        ("see https://example.org/a.", "lihat (http://www.example.org/a/)", False),
        ("see https://example.org/a", "lihat https://example.org/b", True),
        ("see https://example.org/a", "lihat di sana", True),
        ("write to A.B@example.org!", "tulis ke a.b@example.org", False),
        ("write to a@example.org", "tulis ke b@example.org", True),
        ("WWW.example.org", "www.example.org", False),
        ("@user at 5:30", "pukul 5:30", False),
        ("no link", "tanpa tautan", False),
        ("http://a.id http://b.id", "http://b.id، http://a.id", False),
    ],
)
def test_links(one, two, bad):
    assert drops("links", eng=[one, one, None], ind=[two, None, two]) == [bad, False, False]


@pytest.mark.parametrize("step", ROW_STEPS)
def test_no_rows_and_no_texts(step):
    for data in (table(eng=[], ind=[]), table(eng=[None, None], ind=[None, None]), table(ind=["satu"])):
        outcome = run(step, data)
        assert outcome.table.equals(data)
        assert not any(mask.any() for mask in outcome.dropped.values())


CELLS = st.none() | st.text(alphabet="aA1٣ .\t\u200d\u200b\ufffd\u0301é👩字ไم\x00/:w@", max_size=12)


@pytest.mark.slow
@pytest.mark.parametrize("step", ROW_STEPS)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=12), cuts=st.lists(st.integers(0, 12), max_size=3))
def test_how_a_table_is_cut_changes_nothing(step, rows, cuts):
    eng, ind, tha = ([row[k] for row in rows] for k in range(3))
    padded = table(eng=["x", *eng], ind=["y", *ind], tha=["z", *tha])
    whole = padded.slice(1)  # with an offset into its buffers
    bounds = sorted({0, len(rows), *(c for c in cuts if c <= len(rows))})
    pieces = [whole.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    one = run(step, pa.concat_tables(pieces) if pieces else whole)
    parts = [run(step, piece) for piece in pieces]
    assert [len(column) for column in one.table.columns] == [len(rows)] * 6
    for code in ("eng", "ind", "tha"):
        assert one.table[code].to_pylist() == [t for part in parts for t in part.table[code].to_pylist()]
        assert one.changed.get(code, 0) == sum(part.changed.get(code, 0) for part in parts)
        masks = [part.dropped.get(code, np.zeros(len(part.table), bool)) for part in parts]
        expected = np.concatenate([np.zeros(0, bool), *masks]).tolist()
        assert one.dropped.get(code, np.zeros(len(rows), bool)).tolist() == expected


def test_every_default_step_can_be_made():
    assert [type(make_step(step)).__name__ for step in CleaningConfig().steps] == [
        "Normalise",
        "Characters",
        "Empty",
        "Identical",
        "Length",
        "Script",
        "Duplicates",
        "Ratio",
    ]


@pytest.mark.parametrize(
    ("code", "scripts"),
    [
        ("ind", "Latn"),
        ("id", "Latn"),
        ("khm", "Khmr"),
        ("zho_Hant", "Hani"),
        ("jpn", "Hani Hira Kana"),
        ("kor", "Hang Hani"),
        ("ace_Arab", "Arab"),
        ("prs", "Arab"),
        ("azb", "Arab"),
        ("ctg", "Beng"),
        ("mvf", "Mong"),
        ("ajp", "Arab"),
        ("kmr", "Latn"),
        ("und", ""),
        ("qci", ""),
        ("x-klingon-no", ""),
        ("bahasa kita", ""),
    ],
)
def test_scripts_of(code, scripts):
    assert scripts_of(code) == tuple(scripts.split())


FLORES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn
ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn
ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn
guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn
ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn kea_Latn
khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kmr_Latn knc_Arab knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn
lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva
mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn
npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab pes_Arab plt_Latn pol_Latn
por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn
slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn tsn_Latn tso_Latn
tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn
wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
"""


def test_every_flores_language_is_checked_in_its_script():
    wrong = {code: scripts_of(canonical(code)) for code in FLORES.split()}
    wrong = {c: s for c, s in wrong.items() if not {*expand(c[4:])} <= {*s} or not all(map(unicode_name, s))}
    assert not wrong
