//! `promql EXPR`: a query from the command line, to the collector that runs on a data directory, to its store where
//! none runs, or to anything that speaks Prometheus' API.
//!
//! What it deliberately does not do: evaluate (`query`), or decide how a value looks ([`table`]).

pub mod table;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value as Tree;
use url::Url;
use veghe_model::{Labels, Timestamp};
use veghe_promql::{Evaluation, Query, Value};
use veghe_tsdb::Store;

use crate::admin::{self, AdminError, Request, Response};
use crate::query::{QueryError, QueryService};

pub use table::Output;

/// How long a collector may take to answer: longer than it lets a query run.
const PATIENCE: Duration = Duration::from_mins(10);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The expression.
    pub query: String,
    /// The moment, or the end of the range, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Length and step of a range, in milliseconds.
    pub range_ms: Option<(u64, u64)>,
}

/// A value as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// `scalar`, `string`, `vector` or `matrix`.
    pub kind: String,
    /// Every series; a scalar or text is one without labels.
    pub series: Vec<AnswerSeries>,
    /// Warnings and infos.
    pub notes: Vec<String>,
}

/// A series and its points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerSeries {
    /// Its labels, the metric's name among them.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the epoch, and the value as Prometheus writes it.
    pub points: Vec<(i64, String)>,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Whom {
    /// The collector of this data directory, running or not.
    DataDir(PathBuf),
    /// An API like Prometheus'.
    Url {
        /// Its address, without `/api/v1`.
        url: Url,
        /// A file with a token.
        token_file: Option<PathBuf>,
        /// Certificates to trust beside the system's.
        ca_file: Option<PathBuf>,
    },
}

/// Asks `question` and writes the value to `out`, warnings to `notes`.
///
/// # Errors
/// Where nobody answers, or the answer is an error.
pub fn run(
    question: &Question,
    whom: &Whom,
    output: Output,
    open: impl FnOnce() -> anyhow::Result<Store>,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let answer = match whom {
        Whom::DataDir(data_dir) => match ask(data_dir, question) {
            Err(AdminError::NotRunning { .. }) if data_dir.join("tsdb").is_dir() => {
                let queries = QueryService::new(open()?, crate::query::Settings::default());
                runtime.block_on(question.answer(&queries))?
            }
            answer => answer?.context("the collector answered something else; is it of another version?")?,
        },
        Whom::Url { url, token_file, ca_file } => {
            runtime.block_on(fetch(question, url, token_file.as_deref(), ca_file.as_deref()))?
        }
    };
    for note in &answer.notes {
        writeln!(notes, "{note}")?;
    }
    table::write(&answer, output, out)?;
    Ok(())
}

fn ask(data_dir: &Path, question: &Question) -> Result<Option<Answer>, AdminError> {
    Ok(match admin::Talk::open(data_dir, PATIENCE)?.ask(&Request::Query(question.clone()))? {
        Response::Value { answer } => Some(answer),
        _ => None,
    })
}

impl Question {
    /// The value by `queries`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn answer(&self, queries: &QueryService) -> Result<Answer, QueryError> {
        let query = Query::parse(&self.query)?;
        let at = Timestamp(self.at_ms);
        let evaluation = match self.range_ms {
            None => queries.instant(query, at, None).await?,
            Some((length, step)) => {
                let start = at.saturating_sub(Duration::from_millis(length));
                queries.range(query, start, at, Duration::from_millis(step), None).await?
            }
        };
        Ok(Answer::of(evaluation))
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let seconds = |ms: i64| format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
        let mut parameters = vec![("query", self.query.clone())];
        match self.range_ms {
            None => parameters.push(("time", seconds(self.at_ms))),
            Some((length, step)) => {
                let start = Timestamp(self.at_ms).saturating_sub(Duration::from_millis(length));
                parameters.push(("start", seconds(start.millis())));
                parameters.push(("end", seconds(self.at_ms)));
                parameters.push(("step", seconds(i64::try_from(step).unwrap_or(i64::MAX))));
            }
        }
        parameters
    }
}

async fn fetch(
    question: &Question,
    url: &Url,
    token_file: Option<&Path>,
    ca_file: Option<&Path>,
) -> anyhow::Result<Answer> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut client = reqwest::Client::builder().timeout(PATIENCE);
    if let Some(path) = ca_file {
        let certificates = reqwest::Certificate::from_pem_bundle(&read(path)?)
            .with_context(|| format!("cannot read certificates in {}", path.display()))?;
        client = client.tls_certs_merge(certificates);
    }
    let kind = if question.range_ms.is_some() { "api/v1/query_range" } else { "api/v1/query" };
    // Below whatever path the API is mounted.
    let mut base = url.clone();
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", url.path()));
    }
    let target = base.join(kind).context("cannot make the address of the API")?;
    let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(question.parameters()).finish();
    let mut request = client
        .build()
        .context("cannot make an HTTP client")?
        .post(target.clone())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form);
    if let Some(path) = token_file {
        let token = String::from_utf8(read(path)?).with_context(|| format!("{} is no text", path.display()))?;
        request = request.bearer_auth(token.trim());
    }
    let mut response = request.send().await.with_context(|| format!("cannot ask {target}"))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.with_context(|| format!("cannot read the answer of {target}"))? {
        if body.len() + piece.len() > MAX_ANSWER_BYTES {
            bail!("the answer of {target} has more than {MAX_ANSWER_BYTES} bytes; ask for less");
        }
        body.extend_from_slice(&piece);
    }
    let Ok(tree) = serde_json::from_slice::<Tree>(&body) else {
        bail!("{target} answers {status}, and nothing that Prometheus' API would say");
    };
    if let Some(error) = tree["error"].as_str().or(tree["message"].as_str()) {
        bail!("{error}");
    }
    Answer::from_json(&tree).with_context(|| format!("{target} answers {status}, and no value of a query"))
}

impl Answer {
    fn of(evaluation: Evaluation) -> Self {
        let map = |labels: &Labels| labels.iter().map(|l| (l.name.to_string(), l.value.to_string())).collect();
        let single =
            |at: Timestamp, text| vec![AnswerSeries { labels: BTreeMap::new(), points: vec![(at.millis(), text)] }];
        let (kind, series) = match evaluation.value {
            Value::Scalar(at, value) => ("scalar", single(at, number(value))),
            Value::String(at, text) => ("string", single(at, text)),
            Value::Vector(samples) => (
                "vector",
                samples
                    .iter()
                    .map(|sample| AnswerSeries {
                        labels: map(&sample.labels),
                        points: vec![(sample.timestamp.millis(), number(sample.value))],
                    })
                    .collect(),
            ),
            Value::Matrix(series) => (
                "matrix",
                series
                    .iter()
                    .map(|series| AnswerSeries {
                        labels: map(&series.labels),
                        points: series.iter().map(|s| (s.timestamp.millis(), number(s.value))).collect(),
                    })
                    .collect(),
            ),
        };
        let notes = evaluation.warnings.into_iter().chain(evaluation.infos).collect();
        Self { kind: kind.to_owned(), series, notes }
    }

    /// Nothing where the JSON is not what Prometheus' API answers.
    fn from_json(tree: &Tree) -> Option<Self> {
        let point = |tree: &Tree| Some(((tree[0].as_f64()? * 1000.0).round() as i64, tree[1].as_str()?.to_owned()));
        let kind = tree["data"]["resultType"].as_str()?;
        let result = &tree["data"]["result"];
        let series = match kind {
            "scalar" | "string" => vec![AnswerSeries { labels: BTreeMap::new(), points: vec![point(result)?] }],
            _ => result
                .as_array()?
                .iter()
                .map(|series| {
                    let labels = series["metric"].as_object()?.iter();
                    let labels = labels.map(|(n, v)| Some((n.clone(), v.as_str()?.to_owned())));
                    let points = match &series["values"] {
                        Tree::Array(points) => points.iter().map(point).collect::<Option<_>>()?,
                        _ => vec![point(&series["value"])?],
                    };
                    Some(AnswerSeries { labels: labels.collect::<Option<_>>()?, points })
                })
                .collect::<Option<_>>()?,
        };
        let list = |name: &str| tree[name].as_array().cloned().unwrap_or_default();
        let notes = list("warnings").into_iter().chain(list("infos"));
        let notes = notes.filter_map(|note| note.as_str().map(str::to_owned)).collect();
        Some(Self { kind: kind.to_owned(), series, notes })
    }
}

/// As Prometheus' API writes it.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else if value != 0.0 && !(1e-6..1e21).contains(&value.abs()) {
        let text = format!("{value:e}");
        if text.contains("e-") { text } else { text.replace('e', "e+") }
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_json_of_the_api_and_our_own_value_are_the_same_answer() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "a")]);
        let sample = veghe_promql::VectorSample { labels, timestamp: Timestamp(1500), value: 1e-7 };
        let own = Answer::of(Evaluation {
            value: Value::Vector(vec![sample]),
            warnings: vec!["w".to_owned()],
            infos: vec![],
            stats: veghe_promql::SampleStats::default(),
        });
        let json = json!({"status": "success", "data": {"resultType": "vector", "result":
            [{"metric": {"__name__": "up", "job": "a"}, "value": [1.5, "1e-7"]}]}, "warnings": ["w"]});
        assert_eq!(Answer::from_json(&json), Some(own));
        for wrong in [json!({}), json!({"data": {"resultType": "vector", "result": [{"metric": {}}]}}), json!([])] {
            assert_eq!(Answer::from_json(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_sent_as_seconds() {
        let question = Question { query: "up".to_owned(), at_ms: 10_500, range_ms: Some((10_000, 1500)) };
        let texts: Vec<_> = question.parameters().into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(texts, ["query=up", "start=0.500", "end=10.500", "step=1.500"]);
    }
}
