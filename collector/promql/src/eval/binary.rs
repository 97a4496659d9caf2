//! Binary operators: arithmetic, comparison and sets, between scalars and vectors.

use std::collections::HashMap;

use veghe_model::{Labels, METRIC_NAME};

use super::labels::{BracedLabels, is_metadata};
use super::{ABSENT, Columns, Engine, Evaluated, Row, Steps, is_absent};
use crate::EvalError;
use crate::ast::{BinaryOp, Cardinality, Chain, Expr, Grouping, Link, Matching};

/// The value of an operation, or nothing where a comparison filters it out.
fn apply(op: BinaryOp, l: f64, r: f64) -> f64 {
    match op {
        BinaryOp::Add => l + r,
        BinaryOp::Sub => l - r,
        BinaryOp::Mul => l * r,
        BinaryOp::Div => l / r,
        BinaryOp::Mod => l % r,
        BinaryOp::Pow => l.powf(r),
        BinaryOp::Atan2 => l.atan2(r),
        _ => l,
    }
}

fn holds(op: BinaryOp, l: f64, r: f64) -> bool {
    match op {
        BinaryOp::Eq => l == r,
        BinaryOp::Ne => l != r,
        BinaryOp::Lt => l < r,
        BinaryOp::Le => l <= r,
        BinaryOp::Gt => l > r,
        BinaryOp::Ge => l >= r,
        _ => true,
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// What an operator between two values gives; `kept` is the value that a comparison lets through.
pub(super) fn element(op: BinaryOp, returns_bool: bool, l: f64, r: f64, kept: f64) -> f64 {
    if op.is_trim() {
        ABSENT
    } else if !op.is_comparison() {
        apply(op, l, r)
    } else if returns_bool {
        truth(holds(op, l, r))
    } else if holds(op, l, r) {
        kept
    } else {
        ABSENT
    }
}

/// The labels by which series of both sides match.
fn signature(labels: &Labels, on: &Grouping) -> Labels {
    match on {
        Grouping::By(names) => labels.filter(|n| names.iter().any(|name| name == n)),
        Grouping::Without(names) => labels.filter(|n| n != METRIC_NAME && !names.iter().any(|name| name == n)),
    }
}

/// Rows of both sides that share a signature.
#[derive(Default)]
struct Match {
    many: Vec<usize>,
    one: Vec<usize>,
}

impl Engine<'_> {
    pub(crate) fn chain(&self, chain: &Chain, steps: Steps) -> Evaluated<Columns> {
        let mut result = self.eval(&chain.first, steps)?;
        let mut links = chain.links.iter().peekable();
        while let Some(link) = links.next() {
            let rhs = self.eval(&link.rhs, steps)?;
            self.check_stop()?;
            result = match (result, rhs) {
                (Columns::Vector(l), Columns::Vector(r)) if link.op == BinaryOp::Or => {
                    // Alternatives in a row are united at once, so that a long list of them costs its length.
                    let mut union = Union::new(l, &link.matching.on);
                    self.add_to(&mut union, r);
                    while let Some(next) = links.next_if(|l| l.op == BinaryOp::Or && l.matching.on == link.matching.on)
                    {
                        let more = self.vector(&next.rhs, steps)?;
                        self.check_stop()?;
                        self.add_to(&mut union, more);
                    }
                    Columns::Vector(self.merge(union.rows)?)
                }
                (lhs, rhs) => self.link(link, &chain.first, lhs, rhs, steps)?,
            };
        }
        Ok(result)
    }

    fn link(&self, link: &Link, at: &Expr, lhs: Columns, rhs: Columns, steps: Steps) -> Evaluated<Columns> {
        let (op, returns_bool) = (link.op, link.returns_bool);
        match (lhs, rhs) {
            (Columns::Scalar(_), Columns::Scalar(_)) if op.is_trim() => {
                Err(EvalError::Execution(format!("operator {:?} not allowed for Scalar operations", op.name())))
            }
            (Columns::Scalar(mut l), Columns::Scalar(r)) => {
                for (l, r) in l.iter_mut().zip(&r) {
                    *l = if op.is_comparison() { truth(holds(op, *l, *r)) } else { apply(op, *l, *r) };
                }
                self.release(r.len());
                Ok(Columns::Scalar(l))
            }
            (Columns::Vector(rows), Columns::Scalar(scalar)) => {
                self.note_trimmed_floats(at, op, &rows);
                self.with_scalar(rows, &scalar, op, returns_bool, |v, s| element(op, returns_bool, v, s, v))
            }
            (Columns::Scalar(scalar), Columns::Vector(rows)) => {
                self.note_trimmed_floats(at, op, &rows);
                self.with_scalar(rows, &scalar, op, returns_bool, |v, s| element(op, returns_bool, s, v, v))
            }
            (Columns::Vector(l), Columns::Vector(r)) => {
                let rows = match op {
                    BinaryOp::And => self.intersect(l, &r, &link.matching.on, true),
                    BinaryOp::Unless => self.intersect(l, &r, &link.matching.on, false),
                    _ => {
                        let rows = self.join(link, l, r, steps)?;
                        self.note_trimmed_floats(at, op, &rows);
                        rows
                    }
                };
                Ok(Columns::Vector(rows))
            }
            _ => Err(EvalError::Execution(
                "binary expression must contain only scalar and instant vector types".to_owned(),
            )),
        }
    }

    fn note_trimmed_floats(&self, at: &Expr, op: BinaryOp, rows: &[Row]) {
        if op.is_trim() && !rows.is_empty() {
            let op = op.name();
            self.info(
                at,
                &format!("incompatible sample types encountered for binary operator {op:?}: float {op} float"),
            );
        }
    }

    fn with_scalar(
        &self,
        mut rows: Vec<Row>,
        scalar: &[f64],
        op: BinaryOp,
        returns_bool: bool,
        f: impl Fn(f64, f64) -> f64,
    ) -> Evaluated<Columns> {
        for row in &mut rows {
            for (value, scalar) in row.values.iter_mut().zip(scalar) {
                if !is_absent(*value) {
                    *value = f(*value, *scalar);
                }
            }
        }
        self.release(scalar.len());
        if op.is_comparison() || op.is_trim() {
            rows.retain(|row| row.values.iter().any(|v| !is_absent(*v)));
        }
        let drops = !op.is_comparison() || returns_bool;
        Ok(Columns::Vector(if drops { self.drop_names(rows)? } else { rows }))
    }

    /// `and` (values of `l` where `r` has one) and `unless` (where it has none).
    fn intersect(&self, mut l: Vec<Row>, r: &[Row], on: &Grouping, wanted: bool) -> Vec<Row> {
        let present = presence(r, on);
        for row in &mut l {
            let other = present.get(&signature(&row.labels, on));
            for (step, value) in row.values.iter_mut().enumerate() {
                if other.is_some_and(|o| o[step]) != wanted {
                    *value = ABSENT;
                }
            }
        }
        l.retain(|row| row.values.iter().any(|v| !is_absent(*v)));
        self.release_rows(r);
        l
    }

    /// Adds to a union what no row of it stands for yet.
    fn add_to(&self, union: &mut Union<'_>, mut rows: Vec<Row>) {
        for row in &mut rows {
            if let Some(other) = union.present.get(&signature(&row.labels, union.on)) {
                for (value, _) in row.values.iter_mut().zip(other).filter(|(_, o)| **o) {
                    *value = ABSENT;
                }
            }
        }
        rows.retain(|row| {
            let any = row.values.iter().any(|v| !is_absent(*v));
            if !any {
                self.release(row.values.len());
            }
            any
        });
        note_presence(&mut union.present, &rows, union.on);
        union.rows.extend(rows);
    }

    fn join(&self, link: &Link, l: Vec<Row>, r: Vec<Row>, steps: Steps) -> Evaluated<Vec<Row>> {
        let Matching { on, cardinality, fill } = &link.matching;
        // The "one" side is the right, but for `group_right`.
        let swapped = matches!(cardinality, Cardinality::OneToMany(_));
        let (mut many, mut one) = if swapped { (r, l) } else { (l, r) };
        // Prometheus swaps the sides of `group_right` and not the values: there `fill_left` stands for a missing series of
        // the many side, which is the right. Its own scripts fix that.
        let (fill_many, fill_one) = *fill;
        let mut order: Vec<Labels> = Vec::new();
        let mut matches: HashMap<Labels, Match> = HashMap::new();
        for (i, row) in many.iter().enumerate() {
            let key = signature(&row.labels, on);
            let entry = matches.entry(key.clone()).or_insert_with(|| {
                order.push(key);
                Match::default()
            });
            entry.many.push(i);
        }
        for (i, row) in one.iter().enumerate() {
            let key = signature(&row.labels, on);
            let entry = matches.entry(key.clone()).or_insert_with(|| {
                order.push(key);
                Match::default()
            });
            entry.one.push(i);
        }
        let any = |rows: &[Row], step: usize| rows.iter().any(|r| !is_absent(r.values[step]));
        // Without a series on one side Prometheus looks no further, not even for duplicates.
        let both: Vec<bool> = (0..steps.count)
            .map(|step| (any(&many, step) || fill_many.is_some()) && (any(&one, step) || fill_one.is_some()))
            .collect();
        for key in &order {
            let Some(found) = matches.get_mut(key) else { continue };
            if let Some(fill) = fill_one {
                let mut values = self.empty_column(steps)?;
                for (step, value) in values.iter_mut().enumerate() {
                    if found.one.iter().all(|i| is_absent(one[*i].values[step])) {
                        *value = fill;
                    }
                }
                found.one.push(one.len());
                one.push(Row { labels: key.clone(), values, drop_name: false });
            }
            if let Some(fill) = fill_many {
                let mut values = self.empty_column(steps)?;
                for (step, value) in values.iter_mut().enumerate() {
                    // A step where both would be filled has no match at all.
                    let one_there = found.one.iter().any(|i| {
                        let filled = fill_one.is_some() && Some(i) == found.one.last();
                        !filled && !is_absent(one[*i].values[step])
                    });
                    if one_there && found.many.iter().all(|i| is_absent(many[*i].values[step])) {
                        *value = fill;
                    }
                }
                found.many.push(many.len());
                many.push(Row { labels: key.clone(), values, drop_name: false });
            }
        }
        let mut result = Vec::new();
        for key in &order {
            self.check_stop()?;
            let Some(found) = matches.get(key) else { continue };
            self.join_match(link, found, key, (&many, &one), (swapped, &both), steps, &mut result)?;
        }
        self.release_rows(&many);
        self.release_rows(&one);
        let result = if self.delays_names() { result } else { self.merge(result)? };
        Ok(result)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `join`, split from it for its length")]
    fn join_match(
        &self,
        link: &Link,
        found: &Match,
        key: &Labels,
        (many, one): (&[Row], &[Row]),
        (swapped, both): (bool, &[bool]),
        steps: Steps,
        result: &mut Vec<Row>,
    ) -> Evaluated<()> {
        let matching = &link.matching;
        // Which row of the "one" side has a value at each step.
        let mut one_at: Vec<Option<usize>> = vec![None; steps.count];
        for i in &found.one {
            for (step, _) in one[*i].values.iter().enumerate().filter(|(_, v)| !is_absent(**v)) {
                if !both[step] {
                    continue;
                }
                if let Some(first) = one_at[step] {
                    let side = if swapped { "left" } else { "right" };
                    return Err(EvalError::Execution(format!(
                        "found duplicate series for the match group {} on the {side} hand-side of the operation: \
                         [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
                        BracedLabels(key),
                        BracedLabels(&one[first].labels),
                        BracedLabels(&one[*i].labels),
                    )));
                }
                one_at[step] = Some(*i);
            }
        }
        let one_to_one = matching.cardinality == Cardinality::OneToOne;
        let mut taken = vec![false; if one_to_one { steps.count } else { 0 }];
        let first_of_match = result.len();
        for i in &found.many {
            let mut current: Option<(usize, usize)> = None;
            for (step, value) in many[*i].values.iter().enumerate().filter(|(_, v)| !is_absent(**v)) {
                let Some(other) = one_at[step] else { continue };
                if one_to_one && std::mem::replace(&mut taken[step], true) {
                    return Err(EvalError::Execution(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                            .to_owned(),
                    ));
                }
                let at = match current {
                    Some((row, with)) if with == other => row,
                    _ => {
                        let labels = Self::result_labels(link, &many[*i].labels, &one[other].labels);
                        let drop_name = many[*i].drop_name && labels.get(METRIC_NAME).is_some();
                        result.push(Row { labels, values: self.empty_column(steps)?, drop_name });
                        result.len() - 1
                    }
                };
                current = Some((at, other));
                let (l, r) =
                    if swapped { (one[other].values[step], *value) } else { (*value, one[other].values[step]) };
                // A comparison lets the left side's value through, whichever side is the many.
                result[at].values[step] = element(link.op, link.returns_bool, l, r, l);
            }
        }
        if !one_to_one {
            check_unique(&result[first_of_match..], many_presence(found, many, &one_at))?;
        }
        let mut kept = result.split_off(first_of_match);
        kept.retain(|row| row.values.iter().any(|v| !is_absent(*v)));
        result.extend(kept);
        Ok(())
    }

    fn result_labels(link: &Link, many: &Labels, one: &Labels) -> Labels {
        let matching = &link.matching;
        let mut builder = match (&matching.cardinality, &matching.on) {
            (Cardinality::OneToOne, Grouping::By(names)) => many.filter(|n| names.iter().any(|name| name == n)),
            (Cardinality::OneToOne, Grouping::Without(names)) => many.filter(|n| !names.iter().any(|name| name == n)),
            _ => many.clone(),
        }
        .to_builder();
        if !link.op.is_comparison() || link.returns_bool {
            for label in many.iter().filter(|l| is_metadata(&l.name)) {
                builder.remove(&label.name);
            }
        }
        if let Cardinality::ManyToOne(include) | Cardinality::OneToMany(include) = &matching.cardinality {
            for name in include {
                builder.set(name.as_str(), one.get(name).unwrap_or(""));
            }
        }
        builder.build()
    }
}

/// How many rows of the many side have a partner at some step.
fn many_presence(found: &Match, many: &[Row], one_at: &[Option<usize>]) -> usize {
    found
        .many
        .iter()
        .filter(|i| many[**i].values.iter().zip(one_at).any(|(v, one)| !is_absent(*v) && one.is_some()))
        .count()
}

/// That no two rows of one match have the same labels at the same step.
fn check_unique(rows: &[Row], taking_part: usize) -> Evaluated<()> {
    if taking_part < 2 {
        return Ok(());
    }
    let mut seen: HashMap<&Labels, Vec<bool>> = HashMap::new();
    for row in rows {
        let steps = seen.entry(&row.labels).or_insert_with(|| vec![false; row.values.len()]);
        for (there, _) in steps.iter_mut().zip(&row.values).filter(|(_, v)| !is_absent(**v)) {
            if std::mem::replace(there, true) {
                return Err(EvalError::Execution(
                    "multiple matches for labels: grouping labels must ensure unique matches".to_owned(),
                ));
            }
        }
    }
    Ok(())
}

/// Rows of a chain of `or`, and at which steps each signature has a value already.
struct Union<'a> {
    rows: Vec<Row>,
    present: HashMap<Labels, Vec<bool>>,
    on: &'a Grouping,
}

impl<'a> Union<'a> {
    fn new(rows: Vec<Row>, on: &'a Grouping) -> Self {
        Self { present: presence(&rows, on), rows, on }
    }
}

/// At which steps a signature has a value.
fn presence(rows: &[Row], on: &Grouping) -> HashMap<Labels, Vec<bool>> {
    let mut present = HashMap::new();
    note_presence(&mut present, rows, on);
    present
}

fn note_presence(present: &mut HashMap<Labels, Vec<bool>>, rows: &[Row], on: &Grouping) {
    for row in rows {
        let steps = present.entry(signature(&row.labels, on)).or_insert_with(|| vec![false; row.values.len()]);
        for (there, value) in steps.iter_mut().zip(&row.values) {
            *there |= !is_absent(*value);
        }
    }
}
