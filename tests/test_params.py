"""params.yaml: what is refused, in a sentence that names key, value and what is allowed."""

from pathlib import Path

import pytest
import yaml

from palette import params, params_file, stage
from palette.errors import PaletteError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def changed(tmp_path):
    """Write the project's own params.yaml with some keys changed, and return its path."""

    def write(**sections) -> Path:
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for section, change in sections.items():
            known = content.get(section)
            content[section] = known | change if isinstance(known, dict) else change
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(PaletteError) as error:
        params_file.load(path)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_the_shipped_file_is_valid_and_complete():
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    loaded = params_file.load(ROOT / "params.yaml")
    assert set(shipped) == set(params.Params.model_fields)
    assert loaded.trait_names == list(shipped["traits"])
    assert loaded.objective.beta == 0.1
    for section, content in shipped.items():
        if section != "traits":
            assert set(content) == set(type(getattr(loaded, section)).model_fields), section


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"portfolo": {}}, ["'portfolo'", "unknown", "'portfolio'"]),
        ({"portfolio": {"epsilonn": 0.1}}, ["'portfolio.epsilonn'", "unknown", "'epsilon'"]),
        ({"adapters": {"rank": "many"}}, ["adapters.rank", "'many'", "integer"]),
        ({"portfolio": {"epsilon": 1.0}}, ["portfolio.epsilon", "1.0", "less than 1"]),
        ({"portfolio": {"epsilon": 0}}, ["portfolio.epsilon", "0", "greater than 0"]),
        ({"plan": {"epsilon": 0.2}}, ["plan.epsilon", "0.2", "at most portfolio.epsilon", "0.05"]),
        ({"plan": {"strategy": "maximal"}}, ["plan.strategy", "'maximal'", "minimal", "lazy"]),
        (
            {"weights": {"floor": {"safety": 0.6, "humor": 0.5}}},
            ["weights.floor", "1.1", "below 1"],
        ),
        ({"weights": {"floor": {"safty": 0.1}}}, ["weights.floor", "'safty'", "'safety'"]),
        ({"traits": {"wit": {"kind": "humour"}}}, ["traits.wit.kind", "'humour'", "'humor'"]),
        ({"traits": {"wit": {}}}, ["traits.wit.kind", "missing"]),
        ({"traits": {"Wit": {"kind": "humor"}}}, ["traits.Wit", "pattern"]),
        ({"rollouts": {"samples": {"trian": 2}}}, ["rollouts.samples.trian", "'train'"]),
        ({"adapters": {"steps": 0, "rloo_steps": 0}}, ["adapters.steps", "adapters.rloo_steps"]),
        ({"runtime": {"engine": "spark"}}, ["runtime.engine", "'spark'", "'loky'"]),
    ],
    ids=str,
)
def test_refused_in_one_sentence(changed, change, parts):
    sentence = refusal(changed(**change))
    assert not [part for part in parts if part not in sentence], sentence


@pytest.mark.parametrize(
    ("text", "part"),
    [("base: [", "line 1"), ("- a\n- b\n", "mapping"), ("", "mapping"), ("base: {}\n", "'traits'")],
)
def test_file_of_another_shape_is_refused(tmp_path, text, part):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert part in refusal(path)


def test_missing_file_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "params.yaml")


def test_floor_has_the_order_of_the_traits(changed):
    loaded = params_file.load(changed(weights={"floor": {"safety": 0.1}}))
    assert loaded.floor == [0.1 if name == "safety" else 0.0 for name in loaded.trait_names]


def test_every_key_of_the_shipped_file_is_described():
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    keys = {f"{s}.{key}" for s, content in shipped.items() if s != "traits" for key in content}
    assert keys <= {key for key, _, _ in params_file.describe()}


def test_a_stage_refuses_before_it_starts(changed, monkeypatch):
    path = changed(portfolio={"epsilon": 2})
    monkeypatch.chdir(path.parent)
    with pytest.raises(SystemExit, match=r"palette: params\.yaml: portfolio\.epsilon is 2") as exit:
        stage.run(lambda _: pytest.fail("the stage ran"))
    assert "\n" not in str(exit.value.code)
