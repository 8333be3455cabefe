from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.testing import CliRunner

import kdsearch
from kdsearch.cli import plugins
from kdsearch.errors import InputError, PluginError, VerdictNo
from kdsearch.registry import registry
from kdsearch.registry.classes import HOOKS, check_yielded

WORKING = """
    from dataclasses import dataclass
    from kdsearch import Strategy, hookimpl

    @dataclass(frozen=True)
    class Mine(Strategy):
        name = "mine"
        source = "an idea, 2024"
        weight: float

        @classmethod
        def suggest(cls, space, teacher, student):
            return {"weight": space.real("weight", 0.1, 1.0)}

        def loss(self, student, teacher, batch, extra, progress):
            return {"hard": self.weight * batch.hard_loss(student.logits)}

    @hookimpl
    def kdsearch_strategies():
        yield Mine
"""

BUILT_IN = Path(kdsearch.__file__).parents[1] / "plugins"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a plugin file into the (temporary) working folder, WORKING with some text replaced, and gives its path."""
    monkeypatch.chdir(tmp_path)

    def write_file(*changes: tuple[str, str], name: str = "mine.py", text: str = WORKING) -> str:
        content = dedent(text)
        for old, new in changes:
            assert old in content
            content = content.replace(old, new)
        Path(name).write_text(content)
        return name

    return write_file


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Makes a package with entry points in a folder on sys.path, as pip would."""

    imported: list[str] = []

    def install(points: dict[str, str], modules: dict[str, str], package: str = "kd-extra", version: str = "1.2") -> Path:
        site = tmp_path / f"site-{package}"
        record = site / f"{package.replace('-', '_')}-{version}.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (record / "entry_points.txt").write_text("[kdsearch]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()))
        for module, text in modules.items():
            (site / f"{module}.py").write_text(dedent(text))
            imported.append(module)
        monkeypatch.syspath_prepend(str(site))
        return site

    yield install
    for module in imported:
        sys.modules.pop(module, None)


def refusal(path: str, *strategies: str) -> str:
    """The one message with which a plugin is refused; at most ten lines, as every error for users."""
    with pytest.raises(PluginError) as caught:
        registry.load([], list(strategies), [path])
    message = str(caught.value)
    assert len(message.splitlines()) <= 10
    return message


# Finding


def test_built_ins_are_listed_with_their_kind_and_not_imported() -> None:
    listed = {listing.name: listing.kind for listing in registry.available()}
    assert {"hard": "strategy", "logit": "strategy", "feature": "strategy", "joint": "strategy"}.items() <= listed.items()
    assert listed["transformer"] == "family"


def test_public_names_are_sorted_classes() -> None:
    assert list(kdsearch.strategies()) == sorted(kdsearch.strategies())
    assert {"feature", "hard", "joint", "logit"} <= set(kdsearch.strategies())
    assert kdsearch.families()["transformer"].name == "transformer"


def test_a_single_file_stands_beside_the_built_ins(write: Write) -> None:
    loaded = registry.load([], ["mine", "hard"], [write()])
    assert list(loaded.strategies) == ["hard", "mine"]
    assert loaded.strategy("mine", {"weight": 0.5}) == loaded.strategies["mine"](weight=0.5)  # type: ignore[call-arg]


def test_a_listed_file_is_loaded_though_nobody_names_it(write: Write) -> None:
    assert "mine" in registry.load([], ["hard"], [write()]).strategies


def test_only_what_is_named_is_imported(installed: Callable[..., Path]) -> None:
    installed({"broken": "kd_broken", "mine": "kd_mine"}, {"kd_broken": "1 / 0", "kd_mine": WORKING})
    assert [listing.origin for listing in registry.available() if listing.name == "broken"] == [
        "entry point broken = kd_broken of kd-extra 1.2"
    ]
    assert "mine" in registry.load([], ["mine"]).strategies
    assert "kd_broken" not in sys.modules
    with pytest.raises(PluginError, match=r"entry point broken = kd_broken of kd-extra 1.2.*ZeroDivisionError"):
        registry.load([], ["broken"])


def test_a_broken_installed_plugin_is_left_out_with_a_warning(installed: Callable[..., Path]) -> None:
    installed({"broken": "kd_broken", "mine": "kd_mine"}, {"kd_broken": "1 / 0", "kd_mine": WORKING})
    with pytest.warns(UserWarning, match="plugin left out: entry point broken"):
        assert "mine" in kdsearch.strategies()


def test_a_module_under_plugins_is_found_by_its_name(installed: Callable[..., Path]) -> None:
    installed({}, {"mine": WORKING})
    assert registry.load([], ["mine"], ["mine"]).describe()[0]["origin"] == "module mine"


def test_describe_says_where_each_comes_from(installed: Callable[..., Path], write: Write) -> None:
    installed({"theirs": "kd_theirs"}, {"kd_theirs": WORKING.replace('"mine"', '"theirs"')})
    described = {each["name"]: each for each in registry.load(["transformer"], ["theirs"], [write()]).describe()}
    assert described["theirs"]["version"] == "1.2"
    assert described["transformer"] | {"hash": "", "version": ""} == {
        "name": "transformer",
        "kind": "family",
        "origin": "plugins/transformer.py (built in)",
        "version": "",
        "hash": "",
    }
    assert described["mine"]["origin"] == str(Path("mine.py").resolve())
    assert len({each["hash"] for each in described.values()}) == 3
    json.dumps(described)


# One test for each mistake: one message that names the plugin and the fix


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(PluginError) as caught:
        registry.load([], ["logti"])
    there_is = ", ".join(sorted(kdsearch.strategies()))
    assert f"no strategy 'logti'. Did you mean 'logit'? There is: {there_is}." in str(caught.value)


def test_a_strategy_listed_as_a_family_is_sent_to_its_place() -> None:
    with pytest.raises(PluginError, match=r"plugins/hard.py: 'hard' is a strategy, not a family: move it to space.strategies"):
        registry.load(["hard"], [])


def test_a_named_file_that_is_not_listed_is_pointed_out(write: Write) -> None:
    write()
    with pytest.raises(PluginError, match=r"no strategy 'mine'.*There is a file mine.py here: add mine.py under plugins:"):
        registry.load([], ["mine"])
    with pytest.raises(PluginError, match=r"no plugin 'mine'.*There is a file mine.py here: give its path, ./mine.py"):
        registry.load_one("mine")


def test_misspelt_hook(write: Write) -> None:
    path = write(("def kdsearch_strategies", "def kdsearch_strategys"))
    assert refusal(path) == "mine.py: no hook named 'kdsearch_strategys'. Did you mean 'kdsearch_strategies'?"


def test_misspelt_hook_without_its_mark(write: Write) -> None:
    path = write(("@hookimpl\ndef kdsearch_strategies", "def kdsearch_strategys"))
    assert refusal(path) == "mine.py: no hook named 'kdsearch_strategys'. Did you mean 'kdsearch_strategies'?"


def test_a_hook_needs_no_mark(write: Write) -> None:
    assert "mine" in registry.load([], [], [write(("@hookimpl\n", ""))]).strategies


def test_no_hook_at_all(write: Write) -> None:
    path = write(("@hookimpl\ndef kdsearch_strategies", "def my_strategies"))
    assert refusal(path).startswith("mine.py: has no hook. 'my_strategies' is not one. Add `def kdsearch_strategies():`")


def test_hook_with_a_parameter(write: Write) -> None:
    assert "mine.py: a hook takes no parameters" in refusal(write(("strategies():", "strategies(space):")))


def test_missing_module_is_named(write: Write) -> None:
    path = write(text="import not_there_at_all\n")
    with pytest.raises(PluginError) as caught:
        registry.load([], [], [path])
    assert str(caught.value) == (
        "mine.py: imports 'not_there_at_all', which is not installed: install it (on every node), or take the import out"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_misspelt_import_from_kdsearch(write: Write) -> None:
    message = refusal(write(("import Strategy,", "import Stratgy,")))
    assert message.startswith("mine.py: cannot be imported: cannot import name 'Stratgy' from 'kdsearch'")
    assert message.endswith("Did you mean 'Strategy'?")


def test_syntax_error_with_its_line(write: Write) -> None:
    assert refusal(write(text="x = 1\ny = = 2\n")) == "mine.py, line 2: invalid syntax: y = = 2"


def test_error_while_importing_with_its_line(write: Write) -> None:
    assert refusal(write(text="x = 1\ny = x / 0\n")) == "mine.py, line 2: fails while it is imported: ZeroDivisionError: division by zero"


def test_exit_while_importing(write: Write) -> None:
    assert "mine.py, line 2: fails while it is imported: SystemExit: 3" in refusal(write(text="import sys\nsys.exit(3)\n"))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"\xff\xfe\x00PNG\x80")
    assert "mine.py: is not Python source text" in refusal(str(path))


def test_missing_file_with_its_neighbour(write: Write) -> None:
    write()
    message = refusal("mien.py")
    assert message.startswith("mien.py: no such file")
    assert message.endswith("Did you mean 'mine.py'?")


def test_missing_module_name_with_the_file_beside(write: Write) -> None:
    write()
    assert refusal("mine").endswith("There is a file mine.py: write its path, mine.py, under plugins:.")


def test_a_folder_is_not_a_plugin(tmp_path: Path) -> None:
    assert "is a folder" in refusal(f"{tmp_path}/")


def test_duplicate_of_a_built_in_names_both(write: Write) -> None:
    path = write(('"mine"', '"logit"'), name="logit.py")
    message = refusal(path)
    assert "the name 'logit' belongs to two plugins: plugins/logit.py (built in) and " in message
    assert str(Path(path).resolve()) in message


def test_duplicate_of_an_installed_one_names_both(installed: Callable[..., Path]) -> None:
    installed({"mine": "kd_one"}, {"kd_one": WORKING}, package="kd-one")
    installed({"mine": "kd_two"}, {"kd_two": WORKING}, package="kd-two")
    with pytest.raises(PluginError) as caught:
        registry.load([], ["mine"])
    message = str(caught.value)
    assert "of kd-one 1.2 and entry point mine = kd_two of kd-two 1.2" in message


def test_an_installed_duplicate_that_nobody_names_does_not_hurt(installed: Callable[..., Path]) -> None:
    installed({"logit": "kd_one"}, {"kd_one": WORKING})
    assert "hard" in registry.load([], ["hard"]).strategies


def test_the_same_file_twice_is_one_plugin(write: Write) -> None:
    path = write()
    assert list(registry.load([], [], [path, f"./{path}", str(Path(path).resolve())]).strategies) == ["mine"]


def test_instance_instead_of_class(write: Write) -> None:
    message = refusal(write(("yield Mine", "yield Mine(1.0)")))
    assert message == "mine.py: kdsearch_strategies yields an instance: write `yield Mine`, not `yield Mine(...)`"


def test_something_that_is_no_class(write: Write) -> None:
    assert "mine.py: kdsearch_strategies yields 'mine', which is not a class" in refusal(write(("yield Mine", 'yield "mine"')))


def test_a_class_that_is_no_strategy(write: Write) -> None:
    assert "mine.py: int is not a subclass of kdsearch.Strategy" in refusal(write(("yield Mine", "yield int")))


def test_a_strategy_from_the_hook_of_families(write: Write) -> None:
    message = refusal(write(("def kdsearch_strategies", "def kdsearch_families")))
    assert message == "mine.py: Mine is a strategy, not a family: yield it from kdsearch_strategies"


def test_return_instead_of_yield(write: Write) -> None:
    assert "write `yield`, not `return`" in refusal(write(("yield Mine", "return Mine")))


def test_hook_that_yields_nothing(write: Write) -> None:
    assert refusal(write(("yield Mine", "pass"))) == "mine.py: kdsearch_strategies yields nothing: yield the class"


def test_hook_that_fails(write: Write) -> None:
    assert "mine.py: kdsearch_strategies fails: NameError: name 'Yours'" in refusal(write(("yield Mine", "yield Yours")))


def test_missing_method(write: Write) -> None:
    assert "class Mine lacks loss()" in refusal(write(("def loss", "def forward")))


def test_misspelt_optional_method(write: Write) -> None:
    path = write(("    @classmethod", "    def teacher_need(self, teacher, student):\n        return ()\n\n    @classmethod"))
    assert "mine.py: class Mine: nothing calls a method 'teacher_need'. Did you mean 'teacher_needs'?" in refusal(path)


def test_no_dataclass(write: Write) -> None:
    path = write(("@dataclass(frozen=True)\n", ""), ("    weight: float\n", ""))
    assert refusal(path) == "mine.py: class Mine is not a frozen dataclass: put @dataclass(frozen=True) above it"


def test_dataclass_that_is_not_frozen(write: Write) -> None:
    path = write(("(frozen=True)", ""))
    assert refusal(path) == "mine.py, line 5: not a frozen dataclass: write @dataclass(frozen=True)"


def test_wrong_signature_of_a_method(write: Write) -> None:
    message = refusal(write((", extra, progress)", ", extra)")))
    assert message == (
        "mine.py: class Mine: loss(self, student, teacher, batch, extra) has the wrong parameters: "
        "write loss(self, student, teacher, batch, extra, progress)"
    )


def test_class_method_without_its_decorator(write: Write) -> None:
    message = refusal(write(("    @classmethod\n", "")))
    assert "suggest(cls, space, teacher, student) has to be a class method: put @classmethod above it" in message


def test_a_field_that_hides_a_method(write: Write) -> None:
    assert "class Mine: build has to be a method" in refusal(write(("weight: float", "weight: float\n    build: float = 1.0")))


@pytest.mark.parametrize("attribute", ["name", "source"])
def test_missing_class_attribute(write: Write, attribute: str) -> None:
    path = write((f"    {attribute} = ", "    other = "))
    assert f"mine.py: class Mine lacks '{attribute}': add `{attribute} = " in refusal(path)


def test_class_attribute_written_as_a_field(write: Write) -> None:
    assert "'name' is a field, but belongs to the class" in refusal(
        write(("name = ", "name: str = "), ("weight: float", "weight: float = 1.0"))
    )


def test_name_that_differs_from_the_file(write: Write) -> None:
    assert "mine.py: class Mine is named 'yours', its file 'mine': make them the same" in refusal(write(('"mine"', '"yours"')))


def test_a_file_name_that_is_no_name(write: Write) -> None:
    assert "'my-own' cannot be the name of a plugin" in refusal(write(name="my-own.py"))


def test_two_classes_in_one_file(write: Write) -> None:
    more = 'yield Mine\n    yield dataclass(frozen=True)(type("Twin", (Mine,), {}))'
    assert "yields the name 'mine' more than once (Mine and Twin)" in refusal(write(("yield Mine", more)))


def test_a_teacher_role_that_is_none(write: Write) -> None:
    assert "teacher = 'frozen' is none of TeacherRole.ABSENT" in refusal(write(("    weight:", '    teacher = "frozen"\n    weight:')))


def test_a_field_that_json_cannot_hold(write: Write) -> None:
    assert "its fields have to be JSON" in refusal(write(("weight: float", "weight: hookimpl.__class__")))


def test_a_family_that_provides_nothing(write: Write) -> None:
    path = write(("{Signal.LOGITS, ", "{"), ('= "bilstm"', '= "mine"'), text=(BUILT_IN / "bilstm.py").read_text())
    assert "`provides` has to be a frozenset of kdsearch.Signal with at least Signal.LOGITS" in refusal(path)


@pytest.mark.parametrize(("name", "hook"), [("logit", "kdsearch_strategies"), ("mlp", "kdsearch_families")])
def test_every_class_attribute_of_a_contract_is_known_at_the_door(name: str, hook: str) -> None:
    sound = registry.load_one(name)
    for attribute in inspect.get_annotations(HOOKS[hook]):
        wrong = dataclass(frozen=True)(type("Mine", (sound,), {attribute: -1}))
        with pytest.raises(
            PluginError, match=rf"^mine.py: class Mine(: {attribute} = -1 is| lacks '{attribute}'|: `{attribute}` has to be)"
        ):
            check_yielded(wrong, hook, "mine.py")
        field = make_dataclass("Mine", [(attribute, int, 1)], bases=(sound,), frozen=True, kw_only=True)
        with pytest.raises(PluginError, match=f"'{attribute}' is a field, but belongs to the class"):
            check_yielded(field, hook, "mine.py")


# Fields


def test_fields_become_json_and_come_back(write: Write) -> None:
    path = write(("weight: float", "weight: float | None\n    layers: tuple[int, ...] = (0, 2)"))
    loaded = registry.load([], [], [path])
    instance = loaded.strategies["mine"](weight=None)  # type: ignore[call-arg]
    assert registry.dump(instance) == {"weight": None, "layers": [0, 2]}
    assert loaded.strategy("mine", json.loads(json.dumps(registry.dump(instance)))) == instance


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"weigth": 1.0}, "mine (class Mine): no field 'weigth'. Did you mean 'weight'?"),
        ({}, "mine (class Mine): field 'weight' is missing"),
        ({"weight": "much"}, "mine (class Mine): field 'weight' is 'much': input should be a valid number"),
        ({"weight": object()}, "do not make an instance"),
    ],
)
def test_fields_that_do_not_fit(write: Write, fields: dict[str, Any], complaint: str) -> None:
    loaded = registry.load([], [], [write()])
    with pytest.raises(PluginError) as caught:
        loaded.strategy("mine", fields)
    assert complaint in str(caught.value)


# Shipping to workers


def _in_a_worker(folder: str, shipped: str, answers: Any) -> None:
    os.chdir(folder)
    received = registry.Plugins.receive(json.loads(shipped))
    again = registry.Plugins.receive(json.loads(shipped))
    strategy = received.strategy("mine", {"weight": 0.25})
    answers.put((sorted(received.strategies), registry.dump(strategy), received is again, type(strategy).__module__ in sys.modules))


def test_a_worker_without_the_file_has_the_same_plugins(write: Write, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write()
    shipped = json.dumps(registry.load([], ["hard"], [path]).shipped())
    Path(path).unlink()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=_in_a_worker, args=(str(tmp_path_factory.mktemp("elsewhere")), shipped, answers))
    worker.start()
    assert answers.get(timeout=60) == (["hard", "mine"], {"weight": 0.25}, True, True)
    worker.join()


def test_an_installed_plugin_travels_as_a_name(installed: Callable[..., Path]) -> None:
    installed({"mine": "kd_mine"}, {"kd_mine": WORKING})
    (record,) = registry.load([], ["mine"]).shipped()
    assert (record["locator"], record["text"], record["distribution"]) == ("kd_mine", None, "kd-extra")
    assert "mine" in registry.Plugins.receive([record]).strategies


def test_a_worker_without_the_package_says_what_to_install(installed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    site = installed({"mine": "kd_mine"}, {"kd_mine": WORKING}, version="1.3")
    shipped = registry.load([], ["mine"]).shipped()
    with pytest.raises(PluginError, match=r"node .*: its source is not the driver's: install the same kd-extra==1.3 on every node"):
        registry.Plugins.receive([{**shipped[0], "hash": "other"}])
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(site)])
    del sys.modules["kd_mine"]
    with pytest.raises(PluginError, match=r"node .*: its package has no module 'kd_mine' on this machine"):
        registry.Plugins.receive(shipped)


def test_a_built_in_that_differs_on_the_worker_is_run_from_its_text() -> None:
    (record,) = registry.load([], ["hard"]).shipped()
    changed = {**record, "text": record["text"].replace('"the control"', '"the control, changed"')}
    changed["hash"] = registry.digest(changed["text"])
    assert registry.Plugins.receive([changed]).strategies["hard"].source == "the control, changed"
    assert registry.Plugins.receive([record]).strategies["hard"] is kdsearch.strategies()["hard"]


def test_a_file_edited_between_two_loads_is_another_class(write: Write) -> None:
    first = registry.load([], [], [write()]).strategies["mine"]
    same = registry.load([], [], [write()]).strategies["mine"]
    other = registry.load([], [], [write(("an idea, 2024", "an idea, 2025"))]).strategies["mine"]
    assert first is same
    assert (first.source, other.source) == ("an idea, 2024", "an idea, 2025")


def test_a_built_in_under_plugins_is_itself() -> None:
    assert registry.load([], ["hard"], ["kdsearch_plugins.hard"]).describe()[0]["origin"] == "plugins/hard.py (built in)"


# Commands


def test_list_as_a_table_and_as_json(write: Write) -> None:
    table = CliRunner().invoke(plugins.app, ["list", "--plugin", write()])
    assert table.exit_code == 0
    assert "plugins/logit.py (built in)" in table.stdout
    assert "mine" in table.stdout
    listed = json.loads(CliRunner().invoke(plugins.app, ["list", "--format", "json"]).stdout)
    assert {"name": "hard", "kind": "strategy", "origin": "plugins/hard.py (built in)"} in listed


def test_check_passes_a_built_in() -> None:
    result = CliRunner().invoke(plugins.app, ["check", "hard", "--format", "json"])
    assert result.exit_code == 0, result.output
    assert {each["outcome"] for each in json.loads(result.stdout)["checks"]} == {"passed", "skipped"}


def test_check_says_which_check_fails(write: Write) -> None:
    path = write(("self.weight * batch", "batch"))
    result = CliRunner().invoke(plugins.app, ["check", path])
    assert isinstance(result.exception, VerdictNo)
    assert result.exception.exit_code == 1
    assert str(result.exception).endswith("checks failed: every knob changes the loss")
    assert "no value of mine.weight changes the loss" in " ".join(result.stdout.split())


def test_an_option_about_strategies_is_refused_for_a_family() -> None:
    result = CliRunner().invoke(plugins.app, ["check", "mlp", "--equal-student", "zero loss"])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "--equal-student: it is about strategies, and mlp is a family: leave it out"


@pytest.mark.parametrize("what", ["nowhere.py", "logti"])
def test_check_of_nothing_is_wrong_input(what: str) -> None:
    result = CliRunner().invoke(plugins.app, ["check", what])
    assert isinstance(result.exception, PluginError)
    assert result.exception.exit_code == 2


@pytest.mark.parametrize(("name", "why"), [("my-own", "cannot be the name"), ("class", "cannot be the name"), ("logit", "is taken by")])
def test_new_refuses_a_name_that_cannot_work(write: Write, name: str, why: str) -> None:
    result = CliRunner().invoke(plugins.app, ["new", name])
    assert isinstance(result.exception, PluginError)
    assert why in str(result.exception)


def test_new_never_overwrites(write: Write) -> None:
    path = write()
    before = Path(path).read_text()
    result = CliRunner().invoke(plugins.app, ["new", "mine"])
    assert isinstance(result.exception, PluginError)
    assert "mine.py: is there already" in str(result.exception)
    assert Path(path).read_text() == before
    assert not Path("test_mine.py").exists()


def test_new_writes_a_strategy_and_a_test_that_pass_as_written(write: Write) -> None:
    result = CliRunner().invoke(plugins.app, ["new", "soft_huber"])
    assert result.exit_code == 0, result.output
    assert len(Path("soft_huber.py").read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_soft_huber.py"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 passed" in done.stdout
    assert list(registry.load([], ["soft_huber"], ["soft_huber.py"]).strategies) == ["soft_huber"]
