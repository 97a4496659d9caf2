//! Aggregations that take series as they are read: the same as of the whole vector, and without holding it.

#[expect(dead_code, reason = "shared with the runner of scripts")]
mod memory;
mod scattered;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use memory::{Memory, limits};
use scattered::{Each, Scattered};
use veghe_model::{Labels, Matcher, Need, SERIES_OUT_OF_ORDER, SeriesData, Timestamp, stale_nan};
use veghe_promql::{EvalError, Evaluation, Limits, NameRemoval, Query, Source, Value};

/// From three threads, as far out of order as they may be; every tenth place is left out, so that places go beyond a block.
fn far_out_of_order(all: &[SeriesData], each: Each<'_>) {
    let mut placed: Vec<(usize, SeriesData)> = (0..).filter(|p| p % 10 != 4).zip(all.iter().cloned()).collect();
    while !placed.is_empty() {
        let block = placed[0].0 / SERIES_OUT_OF_ORDER;
        let later = placed.split_off(placed.partition_point(|(place, _)| place / SERIES_OUT_OF_ORDER == block));
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let some: Vec<_> = placed.iter().rev().filter(|(place, _)| place % 3 == thread).cloned().collect();
                scope.spawn(move || some.into_iter().all(|(place, series)| each(place, series).is_continue()));
            }
        });
        placed = later;
    }
}

/// Values of any size, gaps, markers and infinities; a thousand series and more, so that some come early.
fn memory() -> Memory {
    let mut memory = Memory::default();
    for n in 0..1_500_i64 {
        let label = |name: &'static str, modulus: i64| (name, (n % modulus).to_string());
        let name = ("__name__", if n % 5 == 0 { "y_total" } else { "x_total" }.to_owned());
        let labels = Labels::from_pairs([name, label("a", 3), label("b", 7), ("n", n.to_string())]);
        let value = |t: i64| match (n * 31 + t * 17) % 97 {
            3 => stale_nan(),
            5 => f64::NAN,
            7 if n % 50 == 0 => f64::INFINITY,
            // Equal ones are chosen in order.
            v if n % 4 == 0 => (v / 10) as f64,
            v => v as f64 * 10_f64.powi((n % 23) as i32 - 11),
        };
        memory.append(labels, (0..12).filter(|t| (n + t) % 11 != 0).map(|t| (t * 30_000 + n, value(t))));
    }
    memory
}

/// Everything of a result, bits of values included.
fn told(evaluation: &Evaluation) -> Vec<String> {
    let line = |labels: &Labels, values: &[f64]| {
        // Which NaN it is nobody sees.
        let bits = |v: &f64| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
        format!("{labels} {:x?}", values.iter().map(bits).collect::<Vec<_>>())
    };
    match &evaluation.value {
        Value::Vector(samples) => samples.iter().map(|s| line(&s.labels, &[s.value])).collect(),
        Value::Matrix(series) => {
            series.iter().map(|s| format!("{} {:?}", line(&s.labels, &s.values), s.timestamps)).collect()
        }
        value => panic!("{value:?}"),
    }
}

fn asked(query: &Query, source: &dyn Source, when: Option<Timestamp>) -> Result<Evaluation, EvalError> {
    if let Some(at) = when {
        return query.instant(source, at, &limits(), &|| false);
    }
    let (start, end, step) = (Timestamp(60_000), Timestamp(420_000), Duration::from_secs(45));
    query.range(source, start, end, step, &limits(), &|| false)
}

#[test]
fn an_aggregation_is_that_of_the_whole_vector_to_the_last_bit() {
    let memory = memory();
    let scattered = Scattered(&memory, far_out_of_order);
    let mut compared = 0;
    for op in
        ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "limitk", "limit_ratio"]
    {
        let parameter = match op {
            "topk" | "bottomk" | "limitk" => "3, ",
            "limit_ratio" => "0.3, ",
            _ => "",
        };
        for grouping in ["", "by (a)", "by (a, __name__)", "without (n)"] {
            for over in [
                "x_total",
                "rate(x_total[1m])",
                "-(2 * max_over_time(x_total[2m]) ^ 2)",
                "x_total > 4",
                "abs(last_over_time(x_total[45s]) - 3) < bool 1",
                "{__name__=~\"._total\"}",
                "rate({__name__=~\"._total\"}[1m])",
                "predict_linear(y_total[3m] offset 30s, 60)",
            ] {
                let whole = format!("label_replace({over}, \"nosuch\", \"\", \"nosuch\", \"zzz\")");
                for names in [NameRemoval::Immediate, NameRemoval::Delayed] {
                    let query = |over: &str| {
                        let text = format!("{op} {grouping} ({parameter}{over})");
                        Query::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")).with_name_removal(names)
                    };
                    let (folded, whole) = (query(over), query(&whole));
                    for when in [Some(Timestamp(200_000)), None] {
                        let what = format!("{folded}, {names:?}, {when:?}");
                        let (folded, whole) = (asked(&folded, &scattered, when), asked(&whole, &memory, when));
                        match (folded, whole) {
                            (Ok(folded), Ok(whole)) => {
                                assert_eq!(told(&folded), told(&whole), "{what}");
                                assert_eq!(
                                    (folded.stats.total, folded.stats.read),
                                    (whole.stats.total, whole.stats.read)
                                );
                                assert_eq!(folded.infos.len(), whole.infos.len(), "{what}");
                                compared += usize::from(!told(&folded).is_empty());
                            }
                            (folded, whole) => {
                                let error = |r: Result<Evaluation, EvalError>| r.err().map(|error| error.to_string());
                                assert_eq!(error(folded), error(whole), "{what}");
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(compared > 1_200, "{compared}");
}

/// So many series, made one by one on three threads.
struct Many(usize);

impl Source for Many {
    fn select(
        &self,
        _: &[Matcher],
        _: Timestamp,
        _: Timestamp,
    ) -> Result<Vec<SeriesData>, Box<dyn std::error::Error + Send + Sync>> {
        Err("all series at once are too many".into())
    }

    fn select_each(
        &self,
        _: &[Matcher],
        _: Timestamp,
        _: Timestamp,
        _: Need,
        _: usize,
        each: &(dyn Fn(usize, SeriesData) -> ControlFlow<()> + Sync),
    ) -> Result<Option<()>, Box<dyn std::error::Error + Send + Sync>> {
        let timestamps: Arc<[i64]> = (0..20).map(|t| t * 60_000).collect();
        for from in (0..self.0).step_by(SERIES_OUT_OF_ORDER) {
            let to = self.0.min(from + SERIES_OUT_OF_ORDER);
            let broken = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..3_usize)
                    .map(|thread| {
                        let timestamps = &timestamps;
                        scope.spawn(move || {
                            (from + thread..to).rev().step_by(3).any(|place| {
                                let labels =
                                    [("__name__", "x_total"), ("g", if place % 2 == 0 { "even" } else { "odd" })];
                                let labels = labels.map(|(name, value)| (name, value.to_owned()));
                                let labels =
                                    Labels::from_pairs(labels.into_iter().chain([("n", format!("{place:06}"))]));
                                let values = (0..20).map(|t| (t * (place % 9)) as f64).collect();
                                each(place, SeriesData { labels, timestamps: Arc::clone(timestamps), values })
                                    .is_break()
                            })
                        })
                    })
                    .collect();
                threads.into_iter().any(|thread| thread.join().unwrap_or(true))
            });
            if broken {
                break;
            }
        }
        Ok(Some(()))
    }
}

#[test]
fn points_of_two_hundred_thousand_series_are_not_held_at_once() {
    const SERIES: usize = 200_000;
    let steps = 16;
    let ask = |text: &str, max_samples: usize| {
        let limits = Limits { max_samples, ..limits() };
        let query = Query::parse(text).expect("a query");
        query.range(&Many(SERIES), Timestamp(240_000), Timestamp(1_140_000), Duration::from_mins(1), &limits, &|| false)
    };
    for (text, series) in [("sum by (g) (rate(x_total[4m]))", 2), ("topk by (g) (3, 8 * rate(x_total[4m]))", 6)] {
        let evaluation = ask(text, 10_000).unwrap_or_else(|error| panic!("{text}: {error}"));
        let Value::Matrix(matrix) = &evaluation.value else { panic!("{evaluation:?}") };
        assert_eq!(matrix.len(), series, "{text}");
        assert!(matrix.iter().all(|s| s.values.len() == steps), "{matrix:?}");
        assert_eq!(evaluation.stats.read, SERIES as u64 * 20);
        assert!(evaluation.stats.peak < 2_000, "{text} held {} points", evaluation.stats.peak);
    }
    // The whole vector has more points than are allowed.
    let whole = ask("quantile by (g) (0.5, rate(x_total[4m]))", SERIES * steps / 2);
    assert!(matches!(whole, Err(EvalError::TooManySamples)), "{whole:?}");
}
