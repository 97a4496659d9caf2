// A mains adapter, a battery and a thermal zone for the test machine, as a laptop's firmware describes them.
DefinitionBlock ("", "SSDT", 2, "VEGHE", "POWER", 1)
{
    Scope (\_SB)
    {
        Device (AC)
        {
            Name (_HID, "ACPI0003")
            Name (_PCL, Package () { \_SB })
            Method (_PSR) { Return (One) }
        }
        Device (BAT0)
        {
            Name (_HID, EisaId ("PNP0C0A"))
            Name (_PCL, Package () { \_SB })
            Method (_STA) { Return (0x1F) }
            // In mWh and mV: design and last full capacity, rechargeable, design voltage, warning, low, granularities.
            Method (_BIF)
            {
                Return (Package () { Zero, 50000, 46000, One, 11400, 4600, 2300, 10, 10, "MODEL", "4711", "LION", "VEGHE" })
            }
            // Charging at 12 W, 32 Wh left, 12 V.
            Method (_BST) { Return (Package () { 2, 12000, 32000, 12000 }) }
        }
    }
    Scope (\_TZ)
    {
        ThermalZone (TZ00)
        {
            // In tenths of a kelvin: 41.9 degrees Celsius, critical at 99.9.
            Method (_TMP) { Return (3151) }
            Method (_CRT) { Return (3731) }
            Method (_PSV) { Return (3631) }
            Name (_PSL, Package () { })
            Name (_TC1, 2)
            Name (_TC2, 5)
            Name (_TSP, 100)
        }
    }
}
