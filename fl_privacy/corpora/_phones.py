"""The sounds and sentences of the synthetic corpus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phone:
    """How one sound is made, by an average man.

    Attributes
    ----------
    formants : tuple of float
        F1 to F3 in Hz.
    seconds : float
        Duration at a normal rate.
    voice : float
        Amplitude of voicing, 1 for a vowel.
    noise : float
        Amplitude of friction, 0 for none.
    centre, width : float
        The band of the friction in Hz.
    """

    formants: tuple[float, float, float]
    seconds: float
    voice: float = 1.0
    noise: float = 0.0
    centre: float = 0.0
    width: float = 0.0


# Vowels: mean formants of men in Peterson & Barney 1952 (J. Acoust. Soc. Am. 24:175-184, table II).
VOWELS = {
    "iy": Phone((270, 2290, 3010), 0.115),
    "ih": Phone((390, 1990, 2550), 0.090),
    "eh": Phone((530, 1840, 2480), 0.105),
    "ae": Phone((660, 1720, 2410), 0.125),
    "aa": Phone((730, 1090, 2440), 0.130),
    "ao": Phone((570, 840, 2410), 0.125),
    "uh": Phone((440, 1020, 2240), 0.090),
    "uw": Phone((300, 870, 2240), 0.115),
    "ah": Phone((640, 1190, 2390), 0.090),
    "er": Phone((490, 1350, 1690), 0.110),
}
CONSONANTS = {
    "m": Phone((250, 1000, 2200), 0.065, voice=0.30),
    "n": Phone((250, 1500, 2500), 0.060, voice=0.30),
    "l": Phone((360, 1200, 2600), 0.060, voice=0.50),
    "r": Phone((350, 1150, 1600), 0.060, voice=0.50),
    "w": Phone((300, 700, 2200), 0.060, voice=0.45),
    "y": Phone((280, 2200, 2900), 0.055, voice=0.45),
    "b": Phone((250, 900, 2200), 0.055, voice=0.12, noise=0.06, centre=900, width=900),
    "d": Phone((250, 1700, 2600), 0.050, voice=0.12, noise=0.10, centre=3800, width=1500),
    "g": Phone((250, 2000, 2500), 0.055, voice=0.12, noise=0.10, centre=2000, width=900),
    "z": Phone((300, 1700, 2600), 0.075, voice=0.22, noise=0.22, centre=5600, width=1800),
    "v": Phone((300, 1100, 2200), 0.060, voice=0.25, noise=0.05, centre=4000, width=4000),
    "p": Phone((350, 900, 2200), 0.070, voice=0.0, noise=0.08, centre=1000, width=1200),
    "t": Phone((350, 1700, 2600), 0.070, voice=0.0, noise=0.20, centre=4500, width=1800),
    "k": Phone((350, 2000, 2500), 0.075, voice=0.0, noise=0.17, centre=2200, width=1000),
    "s": Phone((350, 1700, 2600), 0.100, voice=0.0, noise=0.42, centre=6000, width=1800),
    "sh": Phone((350, 1800, 2500), 0.100, voice=0.0, noise=0.42, centre=3200, width=1300),
    "f": Phone((350, 1100, 2200), 0.090, voice=0.0, noise=0.12, centre=4500, width=4500),
    "h": Phone((550, 1500, 2500), 0.055, voice=0.05, noise=0.14, centre=1700, width=2600),
}
STOPS = frozenset("bdgptk")
PHONES = {**VOWELS, **CONSONANTS}

# Nonsense for the ear, six to eight syllables with a spread of vowels and consonants; a full stop ends a syllable.
SENTENCES = (
    "k ih d z . aa r . t ao . k ih . b ah . d uw . r",
    "d ao g z . s ih . t ih . b ah . d ao . n",
    "m ae . n ih . w er . l ah . k iy . sh uw",
    "sh iy . h ae . d er . f ah . s t uw . l iy . n",
    "w iy . m eh . t ah . b uh . k ih . z aa",
    "n ao . b ah . d iy . s eh . d ah . w er . d",
    "l uh . k ae . t z ah . g r iy . n ih . h uw",
    "p uh . t ih . t ah . w ae . k ao . l",
    "f ao . r er . g uh . d m ah . n iy . t uw",
    "v eh . r iy . l ao n . ah . g ao . s ae m",
    "y eh . s t er . d iy . ah . f ih . l m uw",
    "h aa . r t ih . z uh . b ae . k ih . n",
)
