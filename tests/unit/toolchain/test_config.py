"""Configurations: what a file may say, and the one line that answers what it may not."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pfm_edge import config as module
from pfm_edge._yaml import dump_yaml, parse_yaml
from pfm_edge.config import (
    BackboneConfig,
    Config,
    DataConfig,
    FullConfig,
    LoraConfig,
    TrainingConfig,
    load_config,
)
from pfm_edge_runtime.errors import ConfigError

BASE = "data: {name: digits}\nbackbone: {model: vit_tiny_patch16_224}\n"
CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.fixture
def load(tmp_path):
    def from_text(text=BASE, *overrides):
        path = tmp_path / "c.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return from_text


@pytest.fixture
def refused(load, tmp_path):
    def message_of(text, *overrides):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        message = str(caught.value)
        assert "\n" not in message
        return message.replace(f"{tmp_path}/", "")

    return message_of


class TestValues:
    def test_defaults(self, load):
        config = load()
        assert config.seed == 42
        assert config.attention == "prefix"
        assert config.adaptation == LoraConfig(rank=4, alpha=4.0, dropout=0.1)
        assert config.training == TrainingConfig()
        assert config.data == DataConfig(name="digits")

    def test_types_of_the_file_become_those_of_the_schema(self, load):
        config = load(
            "data: {name: imagefolder, root: flowers}\n"
            "backbone: {model: x, mean: [0.5, 0, 1e-1], weights: w/x.safetensors,\n"
            "           arguments: {img_size: [32, 48], class_token: no, init_values: 1e-5}}\n"
            "adaptation: {kind: full}\n"
            "training: {learning_rate: 1, clip_norm: null}\n"
        )
        assert config.data.root == Path("flowers")
        assert config.backbone.mean == (0.5, 0.0, 0.1)
        assert config.backbone.weights == Path("w/x.safetensors")
        assert config.backbone.arguments["img_size"] == [32, 48]
        assert config.backbone.arguments["class_token"] == "no"
        assert config.backbone.arguments["init_values"] == 1e-5
        assert config.adaptation == FullConfig(kind="full")
        assert config.training.learning_rate == 1.0
        assert config.training.clip_norm is None

    def test_a_configuration_is_frozen(self, load):
        with pytest.raises(ValidationError, match="frozen"):
            load().training.epochs = 3

    @pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
    def test_shipped_configurations_load(self, path):
        config = load_config(path)
        assert config.backbone.model.startswith("vit_")
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# "), "says what it is for"

    def test_every_field_is_documented(self):
        models = [
            m for m in vars(module).values() if isinstance(m, type) and issubclass(m, BaseModel)
        ]
        named = [model for model in models if model is not BaseModel and model.model_fields]
        assert Config in named
        for model in named:
            for name, field in model.model_fields.items():
                assert field.description, f"{model.__name__}.{name}"


class TestOverrides:
    def test_later_ones_win(self, load):
        config = load(BASE, "training.epochs=5", "training.epochs=6", "attention=joint")
        assert config.training.epochs == 6
        assert config.attention == "joint"

    def test_values_are_yaml(self, load):
        config = load(
            BASE,
            "training.learning_rate=3e-4",
            "training.clip_norm=",
            "backbone.mean=[0.5]",
            "backbone.arguments.img_size=8",
            "adaptation={kind: full}",
            "training.warmup_epochs=2",
        )
        assert config.training.learning_rate == 3e-4
        assert config.training.clip_norm is None
        assert config.backbone.mean == (0.5,)
        assert config.backbone.arguments == {"img_size": 8}
        assert config.adaptation.kind == "full"

    def test_a_value_may_hold_an_equals_sign(self, load):
        assert load(BASE, "backbone.weights=a=b").backbone.weights == Path("a=b")

    def test_an_empty_section_is_filled(self, load):
        assert load(BASE + "training:\n", "training.epochs=7").training.epochs == 7

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "training.epochs",
                "--set training.epochs: write KEY=VALUE, such as training.epochs=5",
            ),
            ("=5", "--set =5: write KEY=VALUE, such as training.epochs=5"),
            ("a..b=5", "--set a..b=5: write KEY=VALUE, such as training.epochs=5"),
            ("attention.kind=x", "--set attention.kind: attention holds no keys, but a value"),
            ("seed=[", "--set seed line 1: expected the node content, but found '<stream end>'"),
            (
                "training.epochs=five",
                'c.yaml: training.epochs: must be a valid integer, not "five"',
            ),
            (
                "training.epoch=5",
                "c.yaml: training.epoch: unknown key; did you mean 'epochs'?",
            ),
        ],
    )
    def test_refusals(self, refused, override, message):
        assert refused(BASE + "attention: joint\n", override) == message


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "training: {learning_rte: 1e-3}",
                "training.learning_rte: unknown key; did you mean 'learning_rate'?",
            ),
            ("traning: {}", "traning: unknown key; did you mean 'training'?"),
            (
                "learning_rate: 1",
                "learning_rate: unknown key; did you mean 'training.learning_rate'?",
            ),
            ("zebra: 1", "zebra: unknown key"),
            (
                "adaptation: {kind: lora, rnk: 2}",
                "adaptation.rnk: unknown key; did you mean 'rank'?",
            ),
            (
                "adaptation: {kind: full, rank: 2}",
                "adaptation.rank: unknown key; only kind 'lora' has it",
            ),
            ("adaptation: {rank: 2}", "adaptation.kind: missing; add it"),
            (
                "adaptation: {kind: lroa}",
                "adaptation.kind: \"lroa\" is none of 'full', 'lora'; did you mean 'lora'?",
            ),
            (
                "attention: prefixx",
                "attention: \"prefixx\" is none of 'joint', 'prefix'; did you mean 'prefix'?",
            ),
            (
                "training: {device: gpu}",
                "training.device: \"gpu\" is none of 'auto', 'cpu', 'cuda'",
            ),
            ("training: [1]", "training: must be a section with keys, not [1]"),
            ("training: {epochs: 0}", "training.epochs: must be greater than or equal to 1, not 0"),
            ("training: {epochs: '5'}", 'training.epochs: must be a valid integer, not "5"'),
            ("training: {epochs: 2.0}", "training.epochs: must be a valid integer, not 2.0"),
            ("training: {epochs: true}", "training.epochs: must be a valid integer, not true"),
            (
                "training: {learning_rate: -1}",
                "training.learning_rate: must be greater than 0, not -1",
            ),
            (
                "training: {epochs: 0, max_steps: 0}",
                "training.epochs: must be greater than or equal to 1, not 0; "
                "training.max_steps: must be greater than or equal to 1, not 0",
            ),
            ("seed: -1", "seed: must be greater than or equal to 0, not -1"),
        ],
    )
    def test_keys_and_values(self, refused, text, message):
        assert refused(BASE + text) == f"c.yaml: {message}"

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            (
                "data: {name: imagefolder}",
                "data: imagefolder needs root, the folder that holds its classes",
            ),
            (
                "data: {name: digits, root: x}",
                "data: digits comes with a package and takes no root: remove it",
            ),
            (
                "data: {name: digits, test_fraction: 1}",
                "data.test_fraction: must be less than 1, not 1",
            ),
            (
                "data: {name: digit}",
                "data.name: \"digit\" is none of 'digits', 'imagefolder', 'mnist5k'; "
                "did you mean 'digits'?",
            ),
            (
                "backbone: {model: x, weights: w, pretrained: true}",
                "backbone: pretrained and weights exclude each other: remove one",
            ),
            ("backbone: {model: x, std: [0]}", "backbone.std.0: must be greater than 0, not 0"),
            ("backbone: {model: x, mean: []}", "backbone.mean: give one number per channel"),
            (
                "backbone: {model: x, mean: [1, 1, 1, 1]}",
                "backbone.mean: give one number per channel",
            ),
            ("backbone: {}", "backbone.model: missing; add it"),
        ],
    )
    def test_sections(self, refused, section, message):
        other = "backbone: {model: x}" if section.startswith("data") else "data: {name: digits}"
        assert refused(f"{section}\n{other}\n") == f"c.yaml: {message}"

    def test_missing_sections(self, refused):
        assert refused("seed: 1") == "c.yaml: data: missing; add it; backbone: missing; add it"

    def test_many_problems_are_counted(self, refused):
        message = refused(BASE + "".join(f"zebra{n}: 1\n" for n in range(9)))
        assert message.endswith("zebra4: unknown key; and 4 more")

    def test_long_values_are_cut(self, refused):
        assert len(refused(BASE + f"seed: {'x' * 10_000}")) < 150

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "c.yaml: holds no keys; start from a file in configs/"),
            ("- 1", "c.yaml: holds no keys; start from a file in configs/"),
            ("seed: 1\nseed: 2", "c.yaml line 2: key 'seed' stands twice: remove one"),
            (
                "data:\n  name: digits\n  name: mnist5k",
                "c.yaml line 3: key 'name' stands twice: remove one",
            ),
            ("1: x", "c.yaml line 1: key 1 is no text: put it in quotes"),
            ("[1]: x", "c.yaml line 1: key [1] is no text: put it in quotes"),
            ("a: b: c", "c.yaml line 1: mapping values are not allowed here"),
            ("a: 1\n---\nb: 2", "c.yaml line 2: but found another document"),
            ("seed: .nan", "c.yaml line 1: .nan is no finite number"),
            ("seed: -.inf", "c.yaml line 1: -.inf is no finite number"),
            ("seed: 1e999", "c.yaml line 1: 1e999 is no finite number"),
            ("seed: " + "1" * 5000, "c.yaml line 1: a number of more than 40 digits"),
            ("a: &x 1\nb: *x", "c.yaml line 2: aliases are not used here: repeat the value"),
            ("[" * 5000, "c.yaml: nested too deeply to be a configuration"),
        ],
    )
    def test_yaml(self, refused, text, message):
        assert refused(text) == message

    @pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!binary YQ==", "!x 1"])
    def test_tags_make_no_objects(self, refused, tag):
        assert "could not determine a constructor for the tag" in refused(f"seed: {tag}")

    def test_characters_that_yaml_excludes(self, refused):
        assert refused("seed: \0").startswith("c.yaml: not YAML (unacceptable character")

    def test_missing_file(self, tmp_path):
        (tmp_path / "digits.yaml").write_text(BASE)
        with pytest.raises(
            ConfigError, match=r"digit\.yaml: no such file; did you mean 'digits\.yaml'"
        ):
            load_config(tmp_path / "digit.yaml")

    def test_folder(self, tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
            load_config(tmp_path)

    def test_null_byte_in_the_name(self):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(Path("a\0.yaml"))

    def test_not_utf8(self, tmp_path):
        (tmp_path / "c.yaml").write_bytes(b"seed: \xff")
        with pytest.raises(ConfigError, match="not UTF-8 at byte 6; save it as UTF-8"):
            load_config(tmp_path / "c.yaml")

    def test_a_file_beyond_the_limit(self, tmp_path):
        (tmp_path / "c.yaml").write_bytes(b"#" * ((1 << 20) + 1))
        with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
            load_config(tmp_path / "c.yaml")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | texts
scalars |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
tricky = st.sampled_from(
    [
        "1e-3",
        "yes",
        "no",
        "on",
        "010",
        "0x1f",
        "1:30",
        "1_000",
        "~",
        "null",
        "2020-01-01",
        "<<",
        ".5",
    ]
)


class TestYaml:
    @settings(deadline=None)
    @given(st.dictionaries(texts | tricky, values | tricky, max_size=4))
    def test_what_is_written_is_read_back(self, document):
        assert parse_yaml(dump_yaml(document), "x") == document

    @settings(deadline=None)
    @given(st.dictionaries(texts, values | tricky, max_size=3), texts | tricky)
    def test_configurations_survive(self, tmp_path_factory, arguments, model):
        config = Config(
            data=DataConfig(name="mnist5k", split_seed=3),
            backbone=BackboneConfig(model=model or "x", arguments=arguments, std=(0.1, 1e-7, 3.0)),
            adaptation=FullConfig(kind="full"),
        )
        path = tmp_path_factory.mktemp("c") / "c.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8", newline="")
        assert load_config(path) == config
        assert load_config(path).to_yaml() == config.to_yaml()

    @pytest.mark.parametrize("text", ["yes", "no", "on", "off", "y", "1:30", "2020-01-01", "0x1f"])
    def test_text_that_other_readers_would_misread_is_quoted(self, text):
        assert yaml.safe_load(dump_yaml({"a": text})) == {"a": text}
        assert parse_yaml(f"a: {text}", "x") == {"a": text}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            *[("1e-3", 0.001), ("1E3", 1000.0), ("-.5", -0.5), ("+1.", 1.0), ("010", 10)],
            *[("true", True), ("False", False), ("~", None), ("", None), ("'1'", "1")],
        ],
    )
    def test_scalars_are_those_of_yaml_1_2(self, text, value):
        found = parse_yaml(f"a: {text}", "x")["a"]
        assert found == value
        assert type(found) is type(value)

    def test_keys_stay_in_the_order_of_the_schema(self, load):
        keys = [line.partition(":")[0] for line in load().to_yaml().splitlines() if line[0] != " "]
        assert keys == list(Config.model_fields)
