//! Parameters of a request, from its URL and its form, read as Prometheus reads them.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use axum::response::Response;
use veghe_model::{MatchOp, Matcher, Timestamp};

use super::prometheus_api::ApiError;

/// Names and values in the order in which they came; those of a form before those of the URL, as in Go.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

/// Parameters of one request.
const MAX_PARAMETERS: usize = 1000;
/// Regular expressions in all `match[]` of a request, as many as one query may have.
const MAX_REGEXES: usize = 100;
/// Far outside of every sample, and far enough from the limits of the type that sums of times stay in it.
const FARTHEST_MS: f64 = 9.0e15;

impl Parameters {
    /// Nothing where there are too many: a form of nothing but `&` must not become megabytes.
    fn parse(url_query: &str, form: &[u8]) -> Option<Self> {
        let pairs = url::form_urlencoded::parse(form).chain(url::form_urlencoded::parse(url_query.as_bytes()));
        let pairs: Vec<_> = pairs.take(MAX_PARAMETERS + 1).map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
        (pairs.len() <= MAX_PARAMETERS).then_some(Self(pairs))
    }

    /// The first value of `name`, or the empty string.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Every value of `name`.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A time that must be there.
    pub(super) fn time(&self, name: &str) -> Result<Timestamp, ApiError> {
        parse_time(self.get(name)).map_err(|problem| ApiError::invalid_parameter(name, problem))
    }

    /// A time, or `default` where there is none.
    pub(super) fn time_or(&self, name: &str, default: Timestamp) -> Result<Timestamp, ApiError> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(default);
        }
        parse_time(text)
            .map_err(|problem| ApiError::invalid_parameter(name, format!("invalid time value for '{name}': {problem}")))
    }

    /// A duration that must be there, in milliseconds.
    pub(super) fn duration_ms(&self, name: &str) -> Result<i64, ApiError> {
        parse_duration_ms(self.get(name)).map_err(|problem| ApiError::invalid_parameter(name, problem))
    }

    /// `timeout`; what is below zero is zero.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        if self.get("timeout").is_empty() {
            return Ok(None);
        }
        let ms = self.duration_ms("timeout")?;
        Ok(Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    /// `limit`; zero and its absence are no limit.
    pub(super) fn limit(&self) -> Result<Option<usize>, ApiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(None);
        }
        let limit: i64 = text.parse().map_err(|_not_a_number| {
            ApiError::invalid_parameter("limit", format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
        })?;
        match usize::try_from(limit) {
            Ok(0) => Ok(None),
            Ok(limit) => Ok(Some(limit)),
            Err(_negative) => Err(ApiError::invalid_parameter("limit", "limit must be non-negative")),
        }
    }

    /// The selectors of every `match[]`, none of which takes every series.
    pub(super) async fn selectors(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let selectors = self.any_selectors().await?;
        if selectors.iter().any(|matchers| matchers.iter().all(Matcher::matches_empty)) {
            return Err(ApiError::bad_data("match[] must contain at least one non-empty matcher"));
        }
        Ok(selectors)
    }

    /// The selectors of every `match[]`, read on a blocking thread where they may have regular expressions.
    pub(super) async fn any_selectors(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let texts: Vec<String> = self.all("match[]").map(str::to_owned).collect();
        if !texts.iter().any(|text| text.contains('~')) {
            return matchers(&texts);
        }
        tokio::task::spawn_blocking(move || matchers(&texts))
            .await
            .map_err(|_panicked| ApiError::internal("the request could not be read"))?
    }
}

fn matchers(texts: &[String]) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let mut regexes = 0;
    texts
        .iter()
        .map(|text| {
            let matchers = veghe_promql::parse_selector(text).map_err(ApiError::bad_data)?;
            regexes += matchers.iter().filter(|m| matches!(m.op(), MatchOp::Regex | MatchOp::NotRegex)).count();
            if regexes > MAX_REGEXES {
                let problem = format!("more than {MAX_REGEXES} regular expressions in one request");
                return Err(ApiError::bad_data(problem));
            }
            Ok(matchers)
        })
        .collect()
}

impl<S: Send + Sync> FromRequest<S> for Parameters {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        use axum::response::IntoResponse as _;
        let url_query = request.uri().query().unwrap_or("").to_owned();
        let is_form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let form = if is_form {
            Bytes::from_request(request, state).await.map_err(axum::response::IntoResponse::into_response)?
        } else {
            Bytes::new()
        };
        Self::parse(&url_query, &form).ok_or_else(|| ApiError::bad_data("too many parameters").into_response())
    }
}

/// Seconds since the epoch with a fraction, or RFC 3339.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    let problem = || format!("cannot parse {text:?} to a valid timestamp");
    if let Ok(seconds) = text.parse::<f64>() {
        if seconds.is_nan() {
            return Err(problem());
        }
        return Ok(Timestamp((seconds * 1000.0).clamp(-FARTHEST_MS, FARTHEST_MS).round() as i64));
    }
    // Prometheus sends these two as the ends of all time.
    if text == "-292273086-05-16T16:47:06Z" {
        return Ok(Timestamp(-FARTHEST_MS as i64));
    }
    if text == "292277025-08-18T07:12:54.999999999Z" {
        return Ok(Timestamp(FARTHEST_MS as i64));
    }
    text.parse::<jiff::Timestamp>().map(|t| Timestamp(t.as_millisecond())).map_err(|_not_a_time| problem())
}

/// Seconds with a fraction, or Prometheus' notation, for example `1h30m`.
fn parse_duration_ms(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        let overflow = format!("cannot parse {text:?} to a valid duration. It overflows int64");
        let ns = seconds * 1e9;
        // Go's int64 of nanoseconds.
        return if ns.abs() < i64::MAX as f64 { Ok((ns / 1e6) as i64) } else { Err(overflow) };
    }
    parse_units_ms(text).ok_or_else(|| format!("cannot parse {text:?} to a valid duration"))
}

fn parse_units_ms(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = text;
    let mut total = 0_i64;
    let mut units = UNITS.iter();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (digits, after) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
        let (unit, after) = after.split_at_checked(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()))?;
        // Each unit at most once, larger ones first: the iterator never goes back.
        let (_, ms) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(digits.parse::<i64>().ok()?.checked_mul(*ms)?)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_seconds_or_rfc3339() {
        assert_eq!(parse_time("1.5"), Ok(Timestamp(1500)));
        assert_eq!(parse_time("1e3"), Ok(Timestamp(1_000_000)));
        assert_eq!(parse_time("2015-07-01T20:10:51.781Z"), Ok(Timestamp(1_435_781_451_781)));
        assert_eq!(parse_time("2015-07-01T20:10:51+02:00"), Ok(Timestamp(1_435_774_251_000)));
        assert_eq!(parse_time("1e300"), Ok(Timestamp(9_000_000_000_000_000)));
        assert_eq!(parse_time("NaN"), Err(r#"cannot parse "NaN" to a valid timestamp"#.to_owned()));
    }

    #[test]
    fn durations_are_seconds_or_units_from_large_to_small() {
        assert_eq!(parse_duration_ms("15"), Ok(15_000));
        assert_eq!(parse_duration_ms("0.25"), Ok(250));
        assert_eq!(parse_duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(parse_duration_ms("1m5ms"), Ok(60_005));
        assert_eq!(parse_duration_ms("-1"), Ok(-1000));
        for wrong in ["", "m", "1m1h", "1s1s", "5 m", "1é", "99999999999999999999s", "1x"] {
            assert!(parse_duration_ms(wrong).is_err(), "{wrong}");
        }
        assert!(parse_duration_ms("1e300").is_err() && parse_duration_ms("NaN").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,20}", url in "[a-z&=%+]{0,20}", form: Vec<u8>) {
            drop(parse_time(&text));
            drop(parse_duration_ms(&text));
            Parameters::parse(&url, &form);
        }
    }
}
