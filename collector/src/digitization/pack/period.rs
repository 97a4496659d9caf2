//! The weeks and months that reports are made of.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, ISOWeekDate, Weekday};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digitization::calendar::{Day, FIRST_DAY, LAST_DAY};

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Monday to Sunday.
    Week,
    /// A month of the calendar.
    Month,
}

/// A week or a month of the calendar: `2026-W19`, `2026-05`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    length: Length,
    first: Day,
}

impl Period {
    /// The period of that length which contains `day`.
    pub fn containing(length: Length, day: Day) -> Self {
        let day = day.clamp(Day(FIRST_DAY.0 + 31), Day(LAST_DAY.0 - 31));
        let first = match length {
            Length::Week => day.monday(),
            Length::Month => Day(day.0 - i32::from(day.date().day()) + 1),
        };
        Self { length, first }
    }

    /// How long it is.
    pub fn length(self) -> Length {
        self.length
    }

    /// Its first day.
    pub fn first(self) -> Day {
        self.first
    }

    /// Its last day.
    pub fn last(self) -> Day {
        match self.length {
            Length::Week => Day(self.first.0 + 6),
            Length::Month => Day(self.first.0 + i32::from(self.first.date().days_in_month()) - 1),
        }
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self::containing(self.length, Day(self.last().0 + 1))
    }

    /// The one before it.
    #[must_use]
    pub fn previous(self) -> Self {
        Self::containing(self.length, Day(self.first.0 - 1))
    }
}

/// `2026-W19` (ISO 8601) or `2026-05`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.first.date();
        match self.length {
            Length::Week => {
                let week = date.iso_week_date();
                write!(f, "{:04}-W{:02}", week.year(), week.week())
            }
            Length::Month => write!(f, "{:04}-{:02}", date.year(), date.month()),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is neither a week nor a month of 1901 to 2098; write for example `2026-W19` or `2026-05`")
        };
        let (year, rest) = text.split_once('-').filter(|(year, _)| year.len() == 4).ok_or_else(wrong)?;
        let year: i16 = year.parse().ok().filter(|year| (1901..=2098).contains(year)).ok_or_else(wrong)?;
        let two = |digits: &str| digits.parse::<i8>().ok().filter(|_| digits.len() == 2);
        let (length, date) = if let Some(week) = rest.strip_prefix('W') {
            let week = two(week).and_then(|week| ISOWeekDate::new(year, week, Weekday::Monday).ok());
            (Length::Week, week.ok_or_else(wrong)?.date())
        } else {
            let month = two(rest).and_then(|month| Date::new(year, month, 1).ok());
            (Length::Month, month.ok_or_else(wrong)?)
        };
        Ok(Self { length, first: Day::from(date) })
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str) -> (String, String) {
        let period: Period = text.parse().expect(text);
        assert_eq!(period.to_string(), text);
        assert_eq!((period.next().previous(), period.previous().next()), (period, period));
        (period.first().to_string(), period.last().to_string())
    }

    #[test]
    fn weeks_are_those_of_iso_8601_and_months_those_of_the_calendar() {
        let days = |first: &str, last: &str| (first.to_owned(), last.to_owned());
        assert_eq!(ends("2026-W01"), days("2025-12-29", "2026-01-04"));
        assert_eq!(ends("2026-W53"), days("2026-12-28", "2027-01-03"));
        assert_eq!(ends("2026-05"), days("2026-05-01", "2026-05-31"));
        assert_eq!(ends("2028-02"), days("2028-02-01", "2028-02-29"));
        for wrong in
            ["", "2026", "2026-13", "2026-5", "2025-W53", "2026-W00", "26-05", "2026-W1", "1900-01", "2026-05-01"]
        {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
    }
}
