"""The classes of mylab keep the laws of their rooms."""

import pytest
from mylab.bottleneck import Bottleneck
from mylab.dead_zone import DeadZone
from mylab.flat_share import FlatShare
from mylab.half_nes import HalfNES
from mylab.rings import Rings


@pytest.mark.parametrize("cls", [HalfNES, DeadZone, Bottleneck, Rings, FlatShare])
def test_the_laws_of_its_room(keeps_laws, cls):
    keeps_laws(cls)
