//! Parts of a date in UTC from seconds since the epoch, in the proleptic Gregorian calendar.

/// The part that function `name` yields; `None` where it is no function of dates.
pub(crate) fn part(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "year" => |s| civil(s).0 as f64,
        "month" => |s| civil(s).1 as f64,
        "day_of_month" => |s| civil(s).2 as f64,
        "day_of_week" => |s| (days(s) + 4).rem_euclid(7) as f64,
        "day_of_year" => |s| {
            let (year, _, _) = civil(s);
            (days(s) - days_before(year, 1, 1) + 1) as f64
        },
        "days_in_month" => |s| {
            let (year, month, _) = civil(s);
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            (days_before(next_year, next_month, 1) - days_before(year, month, 1)) as f64
        },
        "hour" => |s| (seconds(s).rem_euclid(86_400) / 3600) as f64,
        "minute" => |s| (seconds(s).rem_euclid(3600) / 60) as f64,
        _ => return None,
    })
}

/// Whole seconds, held in a range whose years are computable.
fn seconds(s: f64) -> i64 {
    (s.floor() as i64).clamp(-(1 << 50), 1 << 50)
}

fn days(s: f64) -> i64 {
    seconds(s).div_euclid(86_400)
}

/// Year, month and day; the algorithm of Howard Hinnant's `civil_from_days`.
fn civil(s: f64) -> (i64, i64, i64) {
    let z = days(s) + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A moment in UTC as `2026-01-02T03:04:05Z`, to the second.
pub(crate) fn rfc3339(time_ms: i64) -> String {
    let s = time_ms.div_euclid(1000) as f64;
    let (year, month, day) = civil(s);
    let of_day = seconds(s).rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
