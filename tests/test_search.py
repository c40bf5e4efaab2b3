"""Options in folders of one's own and of installed packages, wherever options are listed."""

import pytest

from sa.config import search, trust
from sa.config.argv import with_size
from sa.config.catalogue import estimators, options
from sa.config.completion import candidates

CLASS = '''
class Mine:
    """Half the gradient, for a test. More words."""

    target = "none"

    def __call__(self, objective, params, state, generator, at=None):
        """Return the estimate, in 3 evals."""
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a package mylab 0.1, which is installed for sa; importing it fails."""
    package = tmp_path / "site" / "mylab"
    for folder in ("conf/estimator", "conf/experiment"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is imported')\n")
    (package / "mine.py").write_text(CLASS)
    info = tmp_path / "site" / "mylab-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[sa]\nmylab = mylab\n")
    conf = package / "conf"
    text = "# half the gradient\n_target_: mylab.mine.Mine\nfactor: 0.5\n"
    (conf / "estimator" / "mine.yaml").write_text(text)
    (conf / "estimator" / "nes.yaml").write_text("# not this one\n_target_: mylab.mine.Mine\n")
    text = "# @package _global_\ndefaults: [{override /estimator: mine}]\ndescription: my study\n"
    sizes = "sizes: {quick: {seed: [0, 1]}, full: {seed: [0, 1, 2]}}\n"
    (conf / "experiment" / "mystudy.yaml").write_text(text + sizes)
    monkeypatch.setattr(search, "_TYPED", [])
    yield tmp_path / "site"
    trust.installed.cache_clear()


@pytest.fixture
def installed(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    trust.installed.cache_clear()


WAYS = ["--config-dir={0}", "-cd {0}", "hydra.searchpath=[file://{0}]", "hydra.searchpath=[{0}]"]


@pytest.mark.parametrize("words", WAYS)
def test_options_of_a_folder_are_listed_with_the_folder(own, words):
    conf = str(own / "mylab" / "conf")
    search.use(words.format(conf).split())
    assert options("estimator")["mine"] == f"half the gradient [{conf}]"
    assert "not this one" not in options("estimator")["nes"]  # Hydra takes sa's own, too
    search.use([])
    assert "mine" not in options("estimator")


@pytest.mark.parametrize("words", [[], ["hydra.searchpath=[pkg://mylab.conf]"]])
def test_options_of_an_installed_package_are_listed_with_it_and_nothing_is_imported(
    installed, words
):
    search.use(words)
    assert options("estimator")["mine"] == "half the gradient [mylab 0.1]"
    assert options("experiment")["mystudy"] == "my study [mylab 0.1]"
    row = estimators()["mine"]
    assert (row.target, row.evals) == ("none", "3 evals")
    assert row.theorem == "Half the gradient, for a test"
    assert "estimator=mine" in candidates("estimator=mi")
    assert "experiment=mystudy" in candidates("experiment=my")
    assert "seed=0,1,2" in with_size(["-m", "experiment=mystudy", "size=full"])


def test_the_pages_of_help_hints_and_composing_know_a_folder(own, sa, monkeypatch):
    folder = f"--config-dir={own / 'mylab' / 'conf'}"
    code, out, err = sa(folder, "--help", "estimator")
    assert code == 0 and "half the gradient [" in out, err
    code, out, err = sa(folder, "estimator=mine", "--help")
    assert code == 0 and "estimator.factor=0.5" in out and "'mylab' is not trusted" in out, err
    code, out, err = sa(folder, "--help", "experiment=mystudy")
    assert code == 0 and "seed=0,1" in out and "size=full sets" in out, err
    code, out, err = sa(folder, "--catalogue")
    assert code == 0 and "| `mine` | half the gradient [" in out, err
    code, _, err = sa(folder, "estimator=mien")
    assert code == 2 and "did you mean estimator=mine?" in err
    code, _, err = sa(folder, "estimator=mine", "estimator.factr=1")
    assert code == 2 and "did you mean estimator.factor?" in err
    code, _, err = sa(folder, "experiment=mystudy")
    assert code == 2 and "'mylab' is not trusted" in err


def test_hydra_finds_an_installed_package(installed, sa):
    code, out, err = sa("experiment=mystudy", "--cfg", "job")
    assert code == 0 and "_target_: mylab.mine.Mine" in out, err
    code, out, err = sa("experiment=mystudy", "--info", "searchpath")
    assert code == 0 and "mylab 0.1" in out, err
