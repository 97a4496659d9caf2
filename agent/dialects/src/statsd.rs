//! StatsD's lines: `name:value|type|@rate|#tag:value,…`; tags as DogStatsD, and InfluxDB's and Librato's in the name.

/// A longer line is refused.
pub const MAX_LINE: usize = 1024;
const MAX_TAGS: usize = 16;

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// A metric's name as Prometheus wants it: other characters are `_`.
    pub name: String,
    /// Labels, ascending by name.
    pub tags: Vec<(String, String)>,
    /// What is done with it.
    pub action: Action,
}

/// What is done with a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// A counter grows by so much.
    Count(f64),
    /// A gauge is so much.
    Set(f64),
    /// A gauge changes by so much.
    Change(f64),
    /// Something took so many seconds, so often.
    Observe {
        /// Seconds.
        seconds: f64,
        /// How many such observations this one stands for.
        times: f64,
    },
}

/// Reads one line; `None` where it is none, or of a type that is not kept (sets).
pub fn line(line: &str) -> Option<Line> {
    if line.len() > MAX_LINE {
        return None;
    }
    let (name, rest) = line.split_once(':')?;
    let mut parts = rest.split('|');
    let value = parts.next()?;
    let kind = parts.next()?;
    let (mut rate, mut tags) = (1.0, Vec::new());
    let (name, in_name) = match name.split_once([',', '#']) {
        Some((name, tags)) => (name, tags),
        None => (name, ""),
    };
    for tag in in_name.split(',').filter(|tag| !tag.is_empty()) {
        tags.push(tag.split_once('=')?);
    }
    for part in parts {
        if let Some(text) = part.strip_prefix('@') {
            rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= 1.0)?;
        } else if let Some(list) = part.strip_prefix('#') {
            for tag in list.split(',').filter(|tag| !tag.is_empty()) {
                tags.push(tag.split_once(':').unwrap_or((tag, "1")));
            }
        }
    }
    if tags.len() > MAX_TAGS {
        return None;
    }
    let number: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let action = match kind {
        "c" if number >= 0.0 => Action::Count(number / rate),
        "g" if value.starts_with(['+', '-']) => Action::Change(number),
        "g" => Action::Set(number),
        "ms" if number >= 0.0 => Action::Observe { seconds: number / 1000.0, times: 1.0 / rate },
        "h" | "d" if number >= 0.0 => Action::Observe { seconds: number, times: 1.0 / rate },
        _ => return None,
    };
    let name = metric(name)?;
    let mut tags: Vec<(String, String)> =
        tags.into_iter().map(|(key, value)| Some((label(key)?, value.to_owned()))).collect::<Option<_>>()?;
    tags.sort();
    tags.dedup_by(|(later, _), (earlier, _)| later == earlier);
    Some(Line { name, tags, action })
}

fn metric(name: &str) -> Option<String> {
    let name = name.trim();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' }).collect();
    let begins_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    (!name.is_empty()).then(|| if begins_with_digit { format!("_{name}") } else { name })
}

fn label(name: &str) -> Option<String> {
    metric(name).map(|name| name.replace(':', "_")).filter(|name| !name.starts_with("__"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Told = (String, Vec<(String, String)>, Action);

    fn told(text: &str) -> Option<Told> {
        line(text).map(|line| (line.name, line.tags, line.action))
    }

    #[test]
    fn every_type_and_way_of_tags_is_read() {
        let tags =
            |tags: &[(&str, &str)]| tags.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        assert_eq!(told("scan.pages:3|c|@0.5"), Some(("scan_pages".to_owned(), vec![], Action::Count(6.0))));
        assert_eq!(
            told("q:-2|g|#station:S01,b"),
            Some(("q".to_owned(), tags(&[("b", "1"), ("station", "S01")]), Action::Change(-2.0)))
        );
        assert_eq!(told("q,station=S01:2.5|g"), Some(("q".to_owned(), tags(&[("station", "S01")]), Action::Set(2.5))));
        assert_eq!(
            told("9t:320|ms|@0.1"),
            Some(("_9t".to_owned(), vec![], Action::Observe { seconds: 0.32, times: 10.0 }))
        );
        for wrong in ["", "a", "a:1", "a:x|c", "a:-1|c", "a:NaN|g", "a:1|s", "a:1|c|@0", ":1|c", "a,b:1|c", "a:1|c|#:x"]
        {
            assert_eq!(told(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(text in any::<String>()) {
            drop(line(&text));
        }
    }
}
