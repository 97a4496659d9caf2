//! The working calendar of a Romanian public body: weekends, legal holidays, and what a government decision or the
//! project changes about them.
//!
//! Legal holidays are those of Codul muncii, art. 139 (1), each from the year in which it came into the law. Bridge
//! days and recovered days are decided anew every year, so they come from the configuration. What it deliberately does
//! not do: know shifts or the time of day.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use veghe_model::Timestamp;

/// A civil day, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

/// The first day that the calendar answers for: Orthodox Easter's rule holds from here.
pub const FIRST_DAY: Day = Day(-25_567);
/// The last day that the calendar answers for, 2099-12-31.
pub const LAST_DAY: Day = Day(47_481);

impl Day {
    /// The day that contains `at` in `zone`.
    pub fn at(at: Timestamp, zone: &TimeZone) -> Self {
        let instant = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
        let seconds = instant.as_second() + i64::from(zone.to_offset(instant).seconds());
        Self(seconds.div_euclid(86_400) as i32)
    }

    /// The day as a date.
    pub fn date(self) -> Date {
        civil_from_days(self.0)
    }

    /// 0 is Monday, 6 is Sunday.
    pub fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        (self.0 + 3).rem_euclid(7) as u8
    }

    /// `count` days later, never beyond what the calendar answers for.
    #[must_use]
    pub fn plus(self, count: i32) -> Self {
        Self(self.0.saturating_add(count)).clamp(FIRST_DAY, LAST_DAY)
    }

    /// The Monday of its week.
    #[must_use]
    pub fn monday(self) -> Self {
        Self(self.0 - i32::from(self.weekday()))
    }
}

impl From<Date> for Day {
    fn from(date: Date) -> Self {
        Self(days_from_civil(i32::from(date.year()), i32::from(date.month()), i32::from(date.day())))
    }
}

/// `2026-11-12`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.date())
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            i32::deserialize(deserializer).map(Self)
        }
    }
}

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a day; write for example `2026-03-02`");
        if text.len() != 10 {
            return Err(wrong());
        }
        let date: Date = text.parse().map_err(|_unreadable: jiff::Error| wrong())?;
        let day = Self::from(date);
        if day < FIRST_DAY || day > LAST_DAY {
            return Err(format!("`{text}` is outside of 1900 to 2099, for which the dates of Easter are known"));
        }
        Ok(day)
    }
}

/// Days since 1970-01-01 (proleptic Gregorian), by counting from 1 March so that leap days come last.
const fn days_from_civil(year: i32, month: i32, day: i32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i32) -> Date {
    let days = days.clamp(FIRST_DAY.0, LAST_DAY.0) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (month, day) = ((shifted + 2) % 12 + 1, day_of_year - (153 * shifted + 2) / 5 + 1);
    let year = era * 400 + year_of_era + i32::from(month <= 2);
    Date::new(year as i16, month as i8, day as i8).expect("invariant: a day of 1900 to 2099 is a date")
}

/// Orthodox Easter Sunday of a year of 1900 to 2099: Meeus' Julian computus, and 13 days to the Gregorian calendar.
pub fn orthodox_easter(year: i16) -> Day {
    let year = i32::from(year);
    let full_moon = (19 * (year % 19) + 15) % 30;
    let to_sunday = (2 * (year % 4) + 4 * (year % 7) - full_moon + 34) % 7;
    let (month, day) = ((full_moon + to_sunday + 114) / 31, (full_moon + to_sunday + 114) % 31 + 1);
    Day(days_from_civil(year, month, day) + 13)
}

/// A legal holiday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holiday {
    /// When.
    pub day: Day,
    /// Its name in Romanian.
    pub name_ro: &'static str,
    /// Its name in English.
    pub name_en: &'static str,
}

/// Fixed holidays: month, day, first year in the law, names.
const FIXED: &[(i32, i32, i16, &str, &str)] = &[
    (1, 1, 1900, "Anul Nou", "New Year"),
    (1, 2, 1900, "Anul Nou", "New Year"),
    // Law 52/2023.
    (1, 6, 2024, "Boboteaza", "Epiphany"),
    (1, 7, 2024, "Sfântul Ioan Botezătorul", "Saint John the Baptist"),
    // Law 176/2016.
    (1, 24, 2017, "Ziua Unirii Principatelor Române", "Day of the Union of the Principalities"),
    (5, 1, 1900, "Ziua Muncii", "Labour Day"),
    // Law 220/2016.
    (6, 1, 2017, "Ziua Copilului", "Children's Day"),
    // Law 202/2008.
    (8, 15, 2009, "Adormirea Maicii Domnului", "Dormition of the Mother of God"),
    // Law 147/2012.
    (11, 30, 2012, "Sfântul Andrei", "Saint Andrew"),
    (12, 1, 1990, "Ziua Națională", "National Day"),
    (12, 25, 1900, "Crăciunul", "Christmas"),
    (12, 26, 1900, "Crăciunul", "Christmas"),
];

/// Holidays that follow Easter: days after Easter Sunday, first year in the law, names.
const MOVABLE: &[(i32, i16, &str, &str)] = &[
    // Law 64/2018.
    (-2, 2018, "Vinerea Mare", "Good Friday"),
    (0, 1900, "Paștele", "Easter Sunday"),
    (1, 1900, "A doua zi de Paște", "Easter Monday"),
    // Law 202/2008.
    (49, 2009, "Rusaliile", "Pentecost"),
    (50, 2009, "A doua zi de Rusalii", "Pentecost Monday"),
];

/// The legal holidays of `year`, by day; two may fall on the same day.
pub fn legal_holidays(year: i16) -> Vec<Holiday> {
    let fixed = FIXED.iter().filter(|holiday| year >= holiday.2).map(|&(month, day, _, name_ro, name_en)| Holiday {
        day: Day(days_from_civil(i32::from(year), month, day)),
        name_ro,
        name_en,
    });
    let easter = orthodox_easter(year);
    let movable = MOVABLE.iter().filter(|holiday| year >= holiday.1).map(|&(after, _, name_ro, name_en)| Holiday {
        day: Day(easter.0 + after),
        name_ro,
        name_en,
    });
    let mut holidays: Vec<Holiday> = fixed.chain(movable).collect();
    holidays.sort_by_key(|holiday| holiday.day);
    holidays
}

/// On which days people work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Days off beyond the law: bridge days, days on which the archive is closed.
    pub days_off: BTreeSet<Day>,
    /// Working days in spite of weekend or holiday: recovered days. They win over `days_off`.
    pub working_days: BTreeSet<Day>,
}

impl Calendar {
    /// Whether `day` is a working day.
    pub fn is_working(&self, day: Day) -> bool {
        if self.working_days.contains(&day) {
            return true;
        }
        day.weekday() < 5 && !self.days_off.contains(&day) && !is_legal_holiday(day)
    }

    /// Working days from `first` on, ascending; ends with the year 2099.
    pub fn working_from(&self, first: Day) -> impl Iterator<Item = Day> {
        (first.0..=LAST_DAY.0).map(Day).filter(|day| self.is_working(*day))
    }

    /// How many working days there are in `first..=last`.
    pub fn count(&self, first: Day, last: Day) -> u32 {
        (first.0..=last.0).filter(|day| self.is_working(Day(*day))).count() as u32
    }

    /// The legal holidays and days off in `first..=last` that fall on days when people would otherwise work.
    pub fn lost_days(&self, first: Day, last: Day) -> Vec<Day> {
        (first.0..=last.0).map(Day).filter(|day| day.weekday() < 5 && !self.is_working(*day)).collect()
    }
}

fn is_legal_holiday(day: Day) -> bool {
    let date = day.date();
    let (month, of_month) = (i32::from(date.month()), i32::from(date.day()));
    let fixed = FIXED.iter().any(|holiday| holiday.0 == month && holiday.1 == of_month && date.year() >= holiday.2);
    // Good Friday is in April at the earliest, Pentecost Monday in June at the latest.
    fixed
        || ((4..=6).contains(&month) && {
            let after = day.0 - orthodox_easter(date.year()).0;
            MOVABLE.iter().any(|holiday| holiday.0 == after && date.year() >= holiday.1)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        text.parse().expect(text)
    }

    #[test]
    fn days_and_dates_agree_with_the_calendar_of_jiff() {
        assert_eq!((day("1970-01-01"), day("1900-01-01"), day("2099-12-31")), (Day(0), FIRST_DAY, LAST_DAY));
        let mut date = Date::constant(1900, 1, 1);
        for number in FIRST_DAY.0..=LAST_DAY.0 {
            assert_eq!((Day(number).date(), Day::from(date)), (date, Day(number)));
            assert_eq!(i8::try_from(Day(number).weekday()), Ok(date.weekday().to_monday_zero_offset()));
            date = date.tomorrow().expect("2100 is a year");
        }
        assert_eq!(day("2026-03-05").monday(), day("2026-03-02"));
    }

    #[test]
    fn easter_and_pentecost_fall_as_in_the_church_calendar() {
        for (good_friday, easter, pentecost) in [
            ("2026-04-10", "2026-04-12", "2026-05-31"),
            ("2027-04-30", "2027-05-02", "2027-06-20"),
            ("2028-04-14", "2028-04-16", "2028-06-04"),
            ("2029-04-06", "2029-04-08", "2029-05-27"),
            ("2030-04-26", "2030-04-28", "2030-06-16"),
        ] {
            let year = day(easter).date().year();
            assert_eq!(orthodox_easter(year), day(easter));
            let holidays: Vec<Day> = legal_holidays(year).iter().map(|holiday| holiday.day).collect();
            assert!(holidays.contains(&day(good_friday)) && holidays.contains(&day(pentecost)), "{easter}");
            assert!(holidays.contains(&day(pentecost).plus(1)));
        }
    }

    #[test]
    fn years_have_the_working_days_that_the_law_gives_them() {
        let calendar = Calendar::default();
        for (year, working) in [(2026, 250), (2027, 252), (2028, 247), (2029, 249), (2030, 250)] {
            let first = Day::from(Date::constant(year, 1, 1));
            let last = Day::from(Date::constant(year, 12, 31));
            assert_eq!(calendar.count(first, last), working, "{year}");
            let by_list: BTreeSet<Day> =
                legal_holidays(year).iter().map(|h| h.day).filter(|d| d.weekday() < 5).collect();
            assert_eq!(calendar.lost_days(first, last), by_list.into_iter().collect::<Vec<_>>());
        }
        assert!(calendar.is_working(day("2023-01-06")), "Epiphany came into the law later");
    }

    #[test]
    fn a_decision_moves_days_off_and_recovers_them() {
        let mut calendar = Calendar::default();
        let (bridge, recovered) = (day("2026-01-05"), day("2026-01-17"));
        assert!(calendar.is_working(bridge) && !calendar.is_working(recovered));
        calendar.days_off.insert(bridge);
        calendar.working_days.insert(recovered);
        assert!(!calendar.is_working(bridge) && calendar.is_working(recovered));
    }

    #[test]
    fn a_day_begins_at_local_midnight_also_when_the_clocks_change() {
        let zone = TimeZone::get("Europe/Bucharest").expect("time zone");
        let at = |text: &str| Day::at(Timestamp(text.parse::<jiff::Timestamp>().expect(text).as_millisecond()), &zone);
        assert_eq!(at("2026-05-14T20:59:59Z"), day("2026-05-14"));
        assert_eq!(at("2026-05-14T21:00:00Z"), day("2026-05-15"));
        assert_eq!(at("2026-10-25T21:59:59Z"), day("2026-10-25"));
        assert_eq!(at("2026-10-25T22:00:00Z"), day("2026-10-26"));
    }

    #[test]
    fn what_is_no_day_is_told_with_an_example() {
        for wrong in ["", "2026-13-01", "tomorrow", "1899-12-31", "2100-01-01", "2026-3-2", "2026-03-02T00:00:00Z"] {
            assert!(wrong.parse::<Day>().is_err(), "{wrong}");
        }
    }
}
