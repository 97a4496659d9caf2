//! When the last unit will be back on its shelf: a Monte Carlo simulation on the working calendar.
//!
//! The pace of days to come is drawn from the days of late in circular blocks of five, which keeps weeks as they are;
//! first the history itself is drawn anew in each run, so that a short history counts for what it is. What remains is
//! drawn with the error of the pages a metre that were learned. Then comes the wait from the last scan until everything is
//! back, drawn from the waits that the days of late had.
//! Invariant: the same day, project and ledger give the same answer.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::calendar::{Calendar, Day, LAST_DAY};
use super::facts::{Facts, Goal, Known};
use super::settings::{PacePrior, Settings};

/// Runs of a simulation.
pub const RUNS: usize = 10_000;
/// Runs of each of the many simulations that look back.
const RUNS_BACK: usize = 2000;
/// How far the look back goes: five years.
const WEEKS_BACK: i32 = 260;
/// Working days that are drawn together.
const BLOCK: usize = 5;
/// Working days of history from which on the pace is drawn from it.
pub const LEAST_HISTORY: usize = 15;
/// Working days that are looked ahead: 40 years.
const HORIZON: usize = 10_000;

/// Days by which half, 85 and 95 of 100 runs are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// As likely sooner as later.
    pub p50: Day,
    /// A promise that holds in 85 of 100 cases.
    pub p85: Day,
    /// The cautious date.
    pub p95: Day,
    /// Whether it stands on assumptions, for want of history.
    pub is_preliminary: bool,
}

/// What moved the date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// More or fewer pages than were thought.
    Scope,
    /// Working days gave more or less.
    Pace,
    /// More or less was scanned again.
    Rework,
    /// More or fewer days without work.
    Downtime,
    /// The week itself gave more or less than was forecast.
    Progress,
}

/// How the date moved since a week ago.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// The P50 of a week ago.
    pub from: Day,
    /// The P50 of now.
    pub to: Day,
    /// Calendar days by cause; together they are the whole move.
    pub causes: Vec<(Cause, i32)>,
}

/// A week of the past and how its forecast held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PastForecast {
    /// The last day that it knew of.
    pub as_of: Day,
    /// What it said.
    pub forecast: Forecast,
    /// Whether the P85 held.
    pub p85_held: bool,
}

/// How honest the forecasts of past weeks were.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Honesty {
    /// Every week.
    pub weeks: Vec<PastForecast>,
    /// The share of them whose P85 held.
    pub p85_share: Option<f64>,
    /// The day on which everything was back, if it is.
    pub finished: Option<Day>,
}

/// Simulates `known` with `runs` runs; nothing where nothing can be said.
pub fn simulate(known: &Known, settings: &Settings, runs: usize) -> Option<Forecast> {
    let mut random = Random::seeded(known.as_of, &settings.project);
    let pace = Pace::of(known, settings)?;
    let tail = Tail::of(known);
    let mut days: Vec<u32> = Vec::with_capacity(runs);
    for _ in 0..runs {
        let pages = (known.remaining + known.remaining_error * random.normal()).max(0.0) * (1.0 + known.rework);
        let scan = if known.remaining_units == 0 { 0 } else { pace.days(pages, &mut random) };
        let wait = match (known.remaining_units, known.under_way) {
            (0, 0) => 0,
            (0, _) if known.waits.is_empty() => 0,
            (0, _) => tail.of_under_way(&mut random),
            _ => tail.of_new(&mut random),
        };
        days.push(scan + wait);
    }
    days.sort_unstable();
    let at = |share: f64| days[((share * runs as f64).ceil() as usize).clamp(1, runs) - 1];
    let wanted = [at(0.5), at(0.85), at(0.95)];
    let [p50, p85, p95] = nth_working_days(known.as_of, wanted, &settings.calendar);
    Some(Forecast { p50, p85, p95, is_preliminary: pace.is_assumed() || known.is_scope_assumed })
}

/// By which days `pages` more are scanned at the pace of late: before the first in 15 of 100 runs, the second is as likely
/// too early as too late, by the third it is in 85.
pub fn scanned_by(known: &Known, pages: f64, error: f64, settings: &Settings) -> Option<[Day; 3]> {
    let mut random = Random::seeded(known.as_of, &settings.project);
    let pace = Pace::of(known, settings)?;
    let mut run = || pace.days((pages + error * random.normal()).max(0.0) * (1.0 + known.rework), &mut random);
    let mut days: Vec<u32> = (0..RUNS_BACK).map(|_| run()).collect();
    days.sort_unstable();
    let at = |share: f64| days[((share * RUNS_BACK as f64).ceil() as usize).clamp(1, RUNS_BACK) - 1];
    Some(nth_working_days(known.as_of, [at(0.15), at(0.5), at(0.85)], &settings.calendar))
}

/// The `n`-th working days after `as_of`, ascending; `as_of` itself for 0.
fn nth_working_days(as_of: Day, wanted: [u32; 3], calendar: &Calendar) -> [Day; 3] {
    let mut working = calendar.working_from(Day(as_of.0 + 1));
    let (mut passed, mut last) = (0, as_of);
    wanted.map(|count| {
        while passed < count {
            last = working.next().unwrap_or(LAST_DAY);
            passed += 1;
        }
        last
    })
}

/// How many images a day to come gives.
enum Pace<'a> {
    /// As the days of late.
    Learned {
        history: &'a [f64],
        /// Sums of the blocks that begin at each place.
        sums: Vec<f64>,
    },
    /// As somebody guessed.
    Assumed(PacePrior),
}

impl<'a> Pace<'a> {
    fn of(known: &'a Known, settings: &Settings) -> Option<Self> {
        let history = &known.history;
        if history.len() < LEAST_HISTORY {
            return settings.pace.map(Self::Assumed).or(
                (known.remaining_units == 0).then_some(Self::Assumed(PacePrior { low: 1.0, likely: 1.0, high: 1.0 }))
            );
        }
        let sum = |from: usize| (0..BLOCK).map(|n| history[(from + n) % history.len()]).sum();
        let sums: Vec<f64> = (0..history.len()).map(sum).collect();
        // A stretch without any work says nothing about when it will go on.
        (sums.iter().any(|sum| *sum > 0.0) || known.remaining_units == 0).then_some(Self::Learned { history, sums })
    }

    fn is_assumed(&self) -> bool {
        matches!(self, Self::Assumed(_))
    }

    /// Working days that `pages` take.
    fn days(&self, pages: f64, random: &mut Random) -> u32 {
        match self {
            Self::Assumed(prior) => (pages / triangular(*prior, random.unit())).ceil().min(HORIZON as f64) as u32,
            Self::Learned { history, sums } => {
                let mut starts = [0_usize; 16];
                let count = history.len().div_ceil(BLOCK).min(starts.len());
                // A history drawn anew without any work in it would never end: draw another.
                for _ in 0..100 {
                    starts[..count].iter_mut().for_each(|start| *start = random.below(history.len()));
                    if starts[..count].iter().any(|start| sums[*start] > 0.0) {
                        break;
                    }
                }
                let (mut left, mut days) = (pages, 0);
                // Half a page is none.
                while left > 0.5 && days < HORIZON {
                    let start = starts[random.below(count)];
                    if sums[start] + 0.5 < left {
                        left -= sums[start];
                        days += BLOCK;
                        continue;
                    }
                    for n in 0..BLOCK {
                        days += 1;
                        left -= history[(start + n) % history.len()];
                        if left <= 0.5 {
                            break;
                        }
                    }
                }
                days as u32
            }
        }
    }
}

fn triangular(prior: PacePrior, unit: f64) -> f64 {
    let PacePrior { low, likely, high } = prior;
    let width = (high - low).max(f64::MIN_POSITIVE);
    let turn = (likely - low) / width;
    let pace = if unit < turn {
        low + (unit * width * (likely - low)).sqrt()
    } else {
        high - ((1.0 - unit) * width * (high - likely)).sqrt()
    };
    pace.max(f64::MIN_POSITIVE)
}

/// How long the last units need from scan to shelf.
///
/// The wait is a property of the flow, not of its units: units of the same days meet the same rejections, holidays and
/// strikes, so that a maximum of independent ones would be later than any end that there was.
struct Tail {
    /// For each number of working days after the last scan: how likely everything is back by then.
    within: Vec<f64>,
    /// Working days since the last scan.
    passed: usize,
}

impl Tail {
    fn of(known: &Known) -> Self {
        let mut waits = known.waits.clone();
        waits.sort_unstable();
        let longest = waits.last().map_or(0, |wait| wait.days);
        // Kaplan and Meier, 1958: a wait that goes on counts for as long as it is known.
        let mut longer = 1.0;
        let mut within: Vec<f64> = (0..=longest)
            .map(|days| {
                let at_risk = waits.len() - waits.partition_point(|wait| wait.days < days);
                let ended = waits.iter().filter(|wait| wait.days == days && !wait.goes_on).count();
                longer *= 1.0 - ended as f64 / at_risk.max(1) as f64;
                1.0 - longer
            })
            .collect();
        within[longest as usize] = 1.0;
        Self { within, passed: known.since_last_scan as usize }
    }

    /// Working days after the last scan, which is yet to come.
    fn of_new(&self, random: &mut Random) -> u32 {
        self.draw(random.unit()) as u32
    }

    /// Working days from now on, where nothing is left to scan.
    fn of_under_way(&self, random: &mut Random) -> u32 {
        let passed = self.within.get(self.passed).copied().unwrap_or(1.0);
        if passed >= 1.0 {
            // Longer than any wait before it: one more usual one.
            return self.draw(0.5).max(1) as u32;
        }
        (self.draw(passed + (1.0 - passed) * random.unit()).max(self.passed + 1) - self.passed) as u32
    }

    fn draw(&self, unit: f64) -> usize {
        self.within.partition_point(|share| *share <= unit).min(self.within.len() - 1)
    }
}

/// Why the P50 moved since what was known `before`.
pub fn explain(before: &Known, now: &Known, settings: &Settings) -> Option<Move> {
    let date = |known: &Known| simulate(known, settings, RUNS_BACK).map(|forecast| forecast.p50);
    let (from, to) = (date(before)?, date(now)?);
    let mut step = before.clone();
    let mut causes = Vec::new();
    let mut last = from;
    let mut note = |cause: Cause, day: Day| {
        causes.push((cause, day.0 - last.0));
        last = day;
    };
    let more_pages = (now.scanned + now.remaining) - (before.scanned + before.remaining);
    step.remaining = (before.remaining + more_pages).max(0.0);
    note(Cause::Scope, date(&step)?);
    step.rework = now.rework;
    note(Cause::Rework, date(&step)?);
    // What a day gives on which nothing stops: what jams and faults cost is downtime, as days without any work are.
    let usual = |known: &Known| {
        let lost = known.lost.iter().copied().chain(std::iter::repeat(0.0));
        let days = known.history.iter().zip(lost).filter(|(made, _)| **made > 0.0);
        let (days, all) = days.fold((0_u32, 0.0), |(days, all), (made, lost)| (days + 1, all + made + lost));
        all / f64::from(days.max(1))
    };
    let (then, today) = (usual(before), usual(now));
    if then > 0.0 && today > 0.0 {
        step.history.iter_mut().for_each(|made| *made *= today / then);
    }
    note(Cause::Pace, date(&step)?);
    step.history.clone_from(&now.history);
    note(Cause::Downtime, date(&step)?);
    note(Cause::Progress, to);
    Some(Move { from, to, causes })
}

/// How the forecasts of past weeks held, of five years at most: against the day when everything was back, or, while
/// something is out, against today for what was scanned by today.
pub fn look_back(facts: &Facts, today: Day, settings: &Settings) -> Honesty {
    let Some(first) = facts.first_day() else { return Honesty::default() };
    let (goal, came) = match facts.finished() {
        Some(finished) if finished <= today => (Goal::AllReturned, finished),
        _ => (Goal::ScannedBy(today), today),
    };
    let mut weeks = Vec::new();
    // Sundays: a forecast of a week knows the week before.
    // One event with a wrong clock must not make decades of forecasts.
    let earliest = Day(came.0 - 7 * WEEKS_BACK).max(first);
    let mut as_of = Day(earliest.monday().0 + 6);
    while as_of.0 + 7 < came.0 {
        if let Some(known) = facts.known(as_of, goal, settings)
            && known.history.len() >= LEAST_HISTORY
        {
            let known = match goal {
                Goal::AllReturned => known,
                // Only scanning is asked for.
                Goal::ScannedBy(_) => Known { waits: Vec::new(), ..known },
            };
            if let Some(forecast) = simulate(&known, settings, RUNS_BACK) {
                weeks.push(PastForecast { as_of, forecast, p85_held: forecast.p85 >= came });
            }
        }
        as_of = Day(as_of.0 + 7);
    }
    let held = weeks.iter().filter(|week| week.p85_held).count();
    let p85_share = (!weeks.is_empty()).then(|| held as f64 / weeks.len() as f64);
    Honesty { weeks, p85_share, finished: facts.finished() }
}

/// Random numbers that are the same for the same seed (`SplitMix64`; Steele, Lea and Flood, 2014).
pub(super) struct Random(u64);

impl Random {
    fn seeded(day: Day, project: &str) -> Self {
        let digest = Sha256::digest(format!("{day}\0{project}"));
        Self::new(digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
    }

    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly in `0..below`.
    pub(super) fn below(&mut self, below: usize) -> usize {
        ((u128::from(self.next()) * below as u128) >> 64) as usize
    }

    /// Evenly in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of mean 0 and standard deviation 1.
    pub(super) fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.unit(), self.unit());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Wait;
    use super::*;

    fn known(remaining: f64, history: Vec<f64>) -> Known {
        Known {
            as_of: "2026-05-29".parse().expect("day"),
            history,
            lost: Vec::new(),
            remaining,
            remaining_error: 0.0,
            remaining_units: 100,
            scanned: 0.0,
            rework: 0.0,
            waits: Vec::new(),
            under_way: 0,
            since_last_scan: 0,
            is_scope_assumed: false,
        }
    }

    fn dates(known: &Known, settings: &Settings) -> [String; 3] {
        let forecast = simulate(known, settings, RUNS).expect("forecast");
        [forecast.p50, forecast.p85, forecast.p95].map(|day| day.to_string())
    }

    #[test]
    fn a_steady_pace_has_one_date_on_the_working_calendar() {
        // 1 June is a holiday, and so is Pentecost Monday, which is the same day.
        let steady = known(50_000.0, vec![5000.0; 30]);
        assert_eq!(dates(&steady, &Settings::default()), ["2026-06-15"; 3]);
        let reworked = Known { rework: 0.1, ..steady };
        assert_eq!(dates(&reworked, &Settings::default()), ["2026-06-16"; 3]);
    }

    #[test]
    fn the_same_day_gives_the_same_answer_and_another_project_another() {
        let history: Vec<f64> = (0..40).map(|n| f64::from(n * 7919 % 13) * 800.0).collect();
        let known = Known { remaining_error: 20_000.0, ..known(600_000.0, history) };
        let settings = Settings::default();
        let first = dates(&known, &settings);
        assert_eq!(first, dates(&known, &settings));
        assert!(first[0] < first[1] && first[1] < first[2], "{first:?}");
        let mut random = Random::seeded(known.as_of, "Arhiva");
        assert_ne!(random.next(), Random::seeded(known.as_of, "Arhiva 2").next());
        assert!((0..1000).all(|_| random.below(7) < 7 && (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn few_days_need_an_assumption_and_no_work_at_all_no_date() {
        let young = known(50_000.0, vec![5000.0; 14]);
        let mut settings = Settings::default();
        assert_eq!(simulate(&young, &settings, 100), None);
        settings.pace = Some(PacePrior { low: 4000.0, likely: 5000.0, high: 6000.0 });
        let forecast = simulate(&young, &settings, RUNS).expect("forecast");
        assert!(forecast.is_preliminary && forecast.p50 < forecast.p95);
        assert_eq!(simulate(&known(1.0, vec![0.0; 30]), &settings, 100), None);
    }

    #[test]
    fn the_wait_from_scan_to_shelf_is_the_one_that_days_of_late_had() {
        let over = |days: u32| Wait { days, goes_on: false };
        let waits: Vec<Wait> = (0..50).map(|n| over(if n < 40 { 6 } else { 11 })).collect();
        let scan_only = known(5000.0, vec![5000.0; 30]);
        let flow = Known { waits, ..scan_only.clone() };
        let forecast = |known: &Known| simulate(known, &Settings::default(), RUNS).expect("forecast");
        let calendar = Calendar::default();
        let later = |day: Day| calendar.count(Day(forecast(&scan_only).p50.0 + 1), day);
        assert_eq!([forecast(&flow).p50, forecast(&flow).p95].map(later), [6, 11]);
        // Waits that go on say that it takes longer than they did until now, and no more.
        let mut going_on = flow.clone();
        going_on.waits.extend((0..8).map(|days| Wait { days, goes_on: true }));
        assert_eq!([forecast(&going_on).p50, forecast(&going_on).p95].map(later), [6, 11]);
        // Nothing to scan: what passed is passed.
        let rest = Known { remaining_units: 0, remaining: 0.0, under_way: 3, since_last_scan: 4, ..flow };
        let rest_of = |known: &Known| calendar.count(Day(known.as_of.0 + 1), forecast(known).p50);
        assert_eq!(rest_of(&rest), 2);
        assert_eq!(rest_of(&Known { since_last_scan: 6, ..rest.clone() }), 5);
        // Longer than ever: one more usual wait.
        assert_eq!(rest_of(&Known { since_last_scan: 30, ..rest }), 6);
    }

    #[test]
    fn the_causes_of_a_move_add_up_to_it() {
        let before = known(500_000.0, vec![5000.0; 30]);
        let mut after = before.clone();
        after.as_of = Day(before.as_of.0 + 7);
        after.history = [vec![4000.0; 25], vec![0.0; 5]].concat();
        (after.scanned, after.remaining, after.rework) = (20_000.0, 520_000.0, 0.05);
        let moved = explain(&before, &after, &Settings::default()).expect("both have dates");
        assert_eq!(moved.causes.iter().map(|(_, days)| days).sum::<i32>(), moved.to.0 - moved.from.0);
        let by = |cause: Cause| moved.causes.iter().find(|(c, _)| *c == cause).expect("cause").1;
        assert!(
            by(Cause::Scope) > 0 && by(Cause::Pace) > 0 && by(Cause::Rework) > 0 && by(Cause::Downtime) > 0,
            "{moved:?}"
        );
    }

    #[test]
    fn what_jams_cost_is_downtime_and_not_pace() {
        // As fast as before while nothing stops, and a fifth of each day is lost.
        let before = known(500_000.0, vec![5000.0; 30]);
        let mut after = before.clone();
        after.as_of = Day(before.as_of.0 + 7);
        (after.history, after.lost) = (vec![4000.0; 30], vec![1000.0; 30]);
        let by = |moved: &Move, cause: Cause| moved.causes.iter().find(|(c, _)| *c == cause).expect("cause").1;
        let moved = explain(&before, &after, &Settings::default()).expect("both have dates");
        assert_eq!((by(&moved, Cause::Pace), by(&moved, Cause::Scope), by(&moved, Cause::Rework)), (0, 0, 0));
        assert!(by(&moved, Cause::Downtime) >= 30, "{moved:?}");
        // The same days without a stop that anybody told of are a slower pace.
        after.lost.clear();
        let moved = explain(&before, &after, &Settings::default()).expect("both have dates");
        assert!(by(&moved, Cause::Pace) >= 30 && by(&moved, Cause::Downtime) == 0, "{moved:?}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(24))]
        #[test]
        fn the_causes_of_any_move_add_up_to_the_whole(
            history in proptest::collection::vec(0.0..9000.0_f64, 15..40),
            later in proptest::collection::vec(0.0..9000.0_f64, 15..40),
            pages in (0.0..900_000.0_f64, 0.0..900_000.0_f64),
            scanned in (0.0..500_000.0_f64, 0.0..500_000.0_f64),
            rework in (0.0..0.5_f64, 0.0..0.5_f64),
            lost in proptest::collection::vec(0.0..2000.0_f64, 0..40),
        ) {
            let before = Known { scanned: scanned.0, rework: rework.0, remaining_error: 9000.0, ..known(pages.0, history) };
            let mut after = Known { scanned: scanned.1, rework: rework.1, lost, ..known(pages.1, later) };
            after.as_of = Day(before.as_of.0 + 7);
            if let Some(moved) = explain(&before, &after, &Settings::default()) {
                let sum: i32 = moved.causes.iter().map(|(_, days)| days).sum();
                proptest::prop_assert_eq!(sum, moved.to.0 - moved.from.0);
                proptest::prop_assert_eq!(moved.causes.len(), 5);
            }
        }
    }
}
