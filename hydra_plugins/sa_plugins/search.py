"""Lets Hydra find the options of installed packages."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from sa.config.search import CONF, of_packages


class Packages(SearchPathPlugin):
    """Adds the folder ``conf`` of every installed package for sa, behind that of sa.

    They are added as folders: Hydra would import a package to find ``pkg://mylab.conf``.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders to the search path of sa, and of no other program with Hydra."""
        if any(str(CONF) in str(one.path) for one in search_path.get_path()):
            for folder in of_packages():
                search_path.append(folder.owner, f"file://{folder.path}")
