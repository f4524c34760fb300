"""The units that answers may have: a closed vocabulary with dimensions and exact factors of conversion.

Sources: the SI brochure (9th edition, 2019), NIST SP 811 appendix B for units outside the SI. Where customs differ
(gallons, calories, tons, megabytes, months in days) or scales have their own zero (temperatures), a unit has a base of
its own and converts to nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its size in terms of base units, and their exponents.

    A noun of things counted has the dimension `(("noun apple", 1),)`. `doubtful` says that it may be no unit: letters
    right behind the number, as in `2m`, may be variables, and an unknown word may be anything.
    """

    size: Fraction
    dimension: Dimension
    doubtful: bool = False

    @property
    def noun(self) -> str | None:
        """The singular of the things counted; None for a unit of measurement."""
        name, exponent = self.dimension[0] if len(self.dimension) == 1 else ("", 0)
        return name.removeprefix("noun ") if exponent == 1 and name.startswith("noun ") else None

    def power(self, exponent: int) -> Unit:
        """This unit to an integer power other than 0."""
        return Unit(self.size**exponent, tuple((base, count * exponent) for base, count in self.dimension))

    def times(self, other: Unit) -> Unit:
        """The product of two units."""
        return Unit(self.size * other.size, _sum(self.dimension, other.dimension))


NONE = Unit(Fraction(1), ())
THING = "thing"  # the noun of a Chinese counter alone, which counts anything
_PREFIXES = {
    "p": ("pico", -12), "n": ("nano", -9), "μ": ("micro", -6), "m": ("milli", -3), "c": ("centi", -2),
    "d": ("deci", -1), "h": ("hecto", 2), "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9), "T": ("tera", 12),
}  # fmt: skip
# symbol, name, plural, size, dimension, prefixes
_SI = """
m metre metres 1 m nμmcdk
m meter meters 1 m nμmcdk
g gram grams 1/1000 kg nμmk
L litre litres 1/1000 m^3 μmcdh
L liter liters 1/1000 m^3 μmcdh
s second seconds 1 s pnμm
A ampere amperes 1 A nμmk
A amp amps 1 A m
mol mole moles 1 mol μmk
K kelvin kelvins 1 K m
Hz hertz hertz 1 s^-1 kMGT
N newton newtons 1 kg.m.s^-2 mkM
Pa pascal pascals 1 kg.m^-1.s^-2 hkMG
J joule joules 1 kg.m^2.s^-2 mkMG
W watt watts 1 kg.m^2.s^-3 mkMGT
V volt volts 1 kg.m^2.s^-3.A^-1 μmkM
Ω ohm ohms 1 kg.m^2.s^-3.A^-2 mkM
F farad farads 1 kg^-1.m^-2.s^4.A^2 pnμm
C coulomb coulombs 1 s.A nμm
T tesla teslas 1 kg.s^-2.A^-1 nμm
Wb weber webers 1 kg.m^2.s^-2.A^-1 m
H henry henries 1 kg.m^2.s^-2.A^-2 μm
eV electronvolt electronvolts 1.602176634e-19 kg.m^2.s^-2 kMG
Wh watt-hour watt-hours 3600 kg.m^2.s^-2 kMG
cal calorie calories 1 calorie k
"""
# names, separated by commas, size, dimension; "_" stands for a space
_OTHERS = """
min,mins,minute,minutes,分钟 60 s
h,hr,hrs,hour,hours,小时,个小时,时 3600 s
sec,secs,秒,秒钟 1 s
day,days,天,日 86400 s
week,weeks,周,星期,个星期 604800 s
month,months,个月 1 month
year,years,yr,yrs,years_old,year_old,年 12 month
decade,decades 120 month
century,centuries,世纪,个世纪 1200 month
inch,inches,in 0.0254 m
ft,foot,feet 0.3048 m
yd,yard,yards 0.9144 m
mile,miles,mi,英里 1609.344 m
nautical_mile,nautical_miles,海里 1852 m
light_year,light_years,light-year,light-years,光年 9460730472580800 m
AU,astronomical_unit,astronomical_units 149597870700 m
unit,units 1 unit
米,公尺 1 m
厘米,公分 1/100 m
毫米 1/1000 m
微米 1/1000000 m
纳米 1/1000000000 m
分米 1/10 m
千米,公里 1000 m
里 500 m
acre,acres,英亩 4046.8564224 m^2
ha,hectare,hectares,公顷 10000 m^2
亩 2000/3 m^2
cc 1/1000000 m^3
升,公升 1/1000 m^3
毫升 1/1000000 m^3
gallon,gallons,gal 8 pint
quart,quarts,qt 2 pint
pint,pints 1 pint
cup,cups 1/2 pint
fluid_ounce,fluid_ounces,fl_oz 1 fluid_ounce
tablespoon,tablespoons,tbsp 3 teaspoon
teaspoon,teaspoons,tsp 1 teaspoon
t,tonne,tonnes,metric_ton,metric_tons,吨 1000 kg
ton,tons 1 ton
lb,lbs,pound,pounds,磅 0.45359237 kg
oz,ounce,ounces 0.028349523125 kg
千克,公斤 1 kg
克 1/1000 kg
毫克 1/1000000 kg
斤 1/2 kg
mpg 1609.344/8 m.pint^-1
mph,mi/h 1609.344/3600 m.s^-1
kph,kmh,kmph,km/hr 5/18 m.s^-1
knot,knots 1852/3600 m.s^-1
°,degree,degrees,deg,度,degrees_of_arc 1 degree
arcmin,arcminute,arcminutes 1/60 degree
arcsec,arcsecond,arcseconds 1/3600 degree
rad,rads,radian,radians,弧度 1 radian
rev,revs,revolution,revolutions,turn,turns 360 degree
rpm,RPM 6 degree.s^-1
°C,℃,degrees_Celsius,degree_Celsius,Celsius,摄氏度 1 celsius
°F,℉,degrees_Fahrenheit,degree_Fahrenheit,Fahrenheit,华氏度 1 fahrenheit
bar 100000 kg.m^-1.s^-2
atm,atmosphere,atmospheres 101325 kg.m^-1.s^-2
mmHg 1 mmHg
psi 1 psi
horsepower,hp 1 horsepower
牛,牛顿 1 kg.m.s^-2
焦,焦耳 1 kg.m^2.s^-2
千焦 1000 kg.m^2.s^-2
瓦,瓦特 1 kg.m^2.s^-3
千瓦 1000 kg.m^2.s^-3
千瓦时 3600000 kg.m^2.s^-2
帕,帕斯卡 1 kg.m^-1.s^-2
千帕 1000 kg.m^-1.s^-2
伏,伏特 1 kg.m^2.s^-3.A^-1
安,安培 1 s.A.s^-1
欧,欧姆 1 kg.m^2.s^-3.A^-2
赫兹,赫 1 s^-1
摩尔 1 mol
dB,decibel,decibels,分贝 1 decibel
bit,bits 1 bit
byte,bytes,字节 8 bit
kbps,Kbps 1000 bit.s^-1
Mbps 1000000 bit.s^-1
Gbps 1000000000 bit.s^-1
KB,kB,kilobyte,kilobytes 1 kilobyte
MB,megabyte,megabytes 1 megabyte
GB,gigabyte,gigabytes 1 gigabyte
TB,terabyte,terabytes 1 terabyte
KiB 8192 bit
MiB 8388608 bit
GiB 8589934592 bit
$,US$,USD,dollar,dollars,US_dollars,美元 1 dollar
¢,cent,cents,美分 1/100 dollar
¥,RMB,rmb,CNY,yuan,元,块,块钱,元钱,人民币,圆 1 yuan
角,毛 1/10 yuan
yen,JPY,日元 1 yen
€,EUR,euro,euros,欧元 1 euro
£,GBP,英镑 1 sterling
pence,penny 1/100 sterling
₹,INR,Rs,rupee,rupees 1 rupee
₩,KRW,won 1 won
%,percent,per_cent,percentage,pct,％ 1/100 -
‰,permille 1/1000 -
"""


def dimension_of(text: str) -> Dimension:
    """The exponents in a text such as "kg.m^2.s^-2"."""
    total: Dimension = ()
    for factor in [] if text == "-" else text.split("."):
        base, _, exponent = factor.partition("^")
        total = _sum(total, ((base.replace("_", " "), int(exponent or 1)),))
    return total


def _sum(left: Dimension, right: Dimension) -> Dimension:
    counts = dict(left)
    for base, exponent in right:
        counts[base] = counts.get(base, 0) + exponent
    return tuple(sorted((base, exponent) for base, exponent in counts.items() if exponent))


def _size(text: str) -> Fraction:
    above, _, below = text.partition("/")
    return Fraction(above) / Fraction(below or 1)


def _vocabulary() -> Iterator[tuple[str, Unit]]:
    for line in _SI.split("\n")[1:-1]:
        symbol, name, plural, size, dimension, prefixes = line.split()
        unit = Unit(_size(size), dimension_of(dimension))
        yield from ((known, unit) for known in (symbol, name, plural))
        for prefix in prefixes:
            long, power = _PREFIXES[prefix]
            scaled = Unit(unit.size * Fraction(10) ** power, unit.dimension)
            yield from ((known, scaled) for known in (prefix + symbol, long + name, long + plural))
    for line in _OTHERS.split("\n")[1:-1]:
        names, size, dimension = line.split()
        unit = Unit(_size(size), dimension_of(dimension))
        yield from ((known.replace("_", " "), unit) for known in names.split(","))


UNITS: dict[str, Unit] = dict(_vocabulary())
_ALIASES = {
    "Km": "km", "KM": "km", "kms": "km", "Cm": "cm", "CM": "cm", "cms": "cm", "Kg": "kg", "KG": "kg", "kgs": "kg",
    "gm": "g", "gms": "g", "l": "L", "ml": "mL", "ML": "mL", "dl": "dL", "cl": "cL", "hz": "Hz", "HZ": "Hz",
    "khz": "kHz", "KHz": "kHz", "kpa": "kPa", "KPa": "kPa", "kw": "kW", "KW": "kW", "kj": "kJ", "KJ": "kJ",
    "kwh": "kWh", "KWh": "kWh",
}  # fmt: skip
PERCENT = UNITS["%"]
UNITS |= {alias: UNITS[known] for alias, known in _ALIASES.items()}
NAMESAKES = [{UNITS["£"], UNITS["pound"]}, {UNITS["¥"], UNITS["yen"]}, {UNITS["ton"], UNITS["t"]}]
"""Different units that people write alike."""
