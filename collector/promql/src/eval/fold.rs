//! Aggregations that take each series as it is read, so that the points of all of them are never in memory at once.
//!
//! Where an aggregation is over a selector, or a function of one range selector, with nothing between but operations on single
//! values (`sum by (a) (8 * rate(x[5m]))`), a row goes into its group as soon as it is computed. Rows go in in ascending order
//! of labels, whichever thread made them first: the few that come early wait. So results are those of the whole vector, to the
//! last bit. What else there is, quantiles and values counted, `topk` of very many, vectors of several metrics whose names go
//! (two of them may then be one series), is aggregated from the whole vector as before.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use veghe_model::{Labels, METRIC_NAME, SERIES_OUT_OF_ORDER};

use super::accumulate::Accumulator;
use super::aggregate::{counts, group_labels, is_kept_without, rank, rank_ascending, take_share};
use super::binary::element;
use super::instant_functions::elementwise;
use super::labels::{has_metadata_beside_name, is_metadata, without_metadata};
use super::select::Yield;
use super::{ABSENT, Engine, Evaluated, Row, Steps, is_absent};
use crate::ast::{AggregateOp, BinaryOp, Edges, Expr, ExprKind, Grouping, Selector};
use crate::check::kind_of;
use crate::{EvalError, QueryKind};

/// What is made of a row on its way.
pub(crate) type Made<T> = ControlFlow<EvalError, Option<(T, usize)>>;

/// More chosen series than this for each step are chosen from the whole vector.
const MAX_CHOSEN: usize = 256;

/// An operation on each value of a row.
enum Stage {
    Map(fn(f64) -> f64),
    Scalar { op: BinaryOp, returns_bool: bool, scalar: Vec<f64>, is_left: bool },
}

impl Stage {
    /// Changes the values; whether any is left.
    fn apply(&self, values: &mut [f64]) -> bool {
        match self {
            Self::Map(f) => {
                values.iter_mut().filter(|v| !is_absent(**v)).for_each(|v| *v = f(*v));
                true
            }
            Self::Scalar { op, returns_bool, scalar, is_left } => {
                for (value, scalar) in values.iter_mut().zip(scalar).filter(|(v, _)| !is_absent(**v)) {
                    let (l, r) = if *is_left { (*scalar, *value) } else { (*value, *scalar) };
                    *value = element(*op, *returns_bool, l, r, *value);
                }
                !op.is_comparison() || values.iter().any(|v| !is_absent(*v))
            }
        }
    }
}

/// What rows come from, and what is done with each.
struct Pipeline<'e> {
    leaf: &'e Expr,
    selector: &'e Selector,
    /// In order, from the leaf on.
    stages: Vec<Stage>,
    drops_name: bool,
}

/// What goes from labels before rows are grouped.
#[derive(Clone, Copy, PartialEq)]
enum Strip {
    /// Nothing, as nobody would see it.
    Nothing,
    /// Type and unit: `without` keeps them, but never the name.
    Metadata,
    All,
}

/// Where rows go instead of into a list.
pub(crate) struct Fold {
    stages: Vec<Stage>,
    strips_names: Strip,
    /// Names are to go at the query's end.
    drop_name: bool,
    steps: usize,
    /// Points that may be held at once.
    room: usize,
    order: Mutex<Order>,
}

/// Rows in the order in which they go in.
struct Order {
    /// No earlier place can come any more.
    next: usize,
    last: usize,
    /// Rows, or nothing, that came before their turn: fewer than [`SERIES_OUT_OF_ORDER`], and not counted, so that a query is
    /// refused the same however many threads there are.
    early: BTreeMap<usize, Option<Row>>,
    /// The most points at once, of groups, chosen rows and the row that went in.
    peak: usize,
    groups: Groups,
}

struct Groups {
    op: AggregateOp,
    grouping: Grouping,
    steps: usize,
    /// By the texts of the labels that they are grouped by, each with its length before it.
    at: HashMap<Box<[u8]>, usize>,
    key: Vec<u8>,
    all: Vec<Group>,
    parameter: Parameter,
    /// Names are to go from the labels of chosen rows.
    strips_chosen: bool,
    /// Rows that are, or may yet be, in the result, with how many steps they are chosen at.
    chosen: BTreeMap<usize, (Row, usize)>,
    next_row: usize,
}

enum Parameter {
    None,
    Counts(Vec<usize>),
    Ratios(Vec<f64>),
}

struct Group {
    labels: Labels,
    drop_name: bool,
    state: State,
}

enum State {
    Accumulated(Accumulator),
    /// For each step the best values, the best one first, and whose they are.
    Best(Vec<Vec<(f64, usize)>>),
}

impl Fold {
    /// Takes a row, or that there is none at this place.
    pub(crate) fn take<T>(&self, place: usize, row: Option<Row>) -> Made<T> {
        let row = row.and_then(|mut row| {
            let any = self.stages.iter().all(|stage| stage.apply(&mut row.values));
            if !any {
                return None;
            }
            if self.strips_names == Strip::All
                || self.strips_names == Strip::Metadata && has_metadata_beside_name(&row.labels)
            {
                row.labels = without_metadata(&row.labels);
            }
            row.drop_name |= self.drop_name;
            Some(row)
        });
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if place == order.next {
            order.next += 1;
            order.fold(row);
        } else {
            order.early.insert(place, row);
        }
        order.last = order.last.max(place);
        let none_below = (order.last + 1).saturating_sub(SERIES_OUT_OF_ORDER);
        while let Some((&place, _)) = order.early.first_key_value() {
            if place != order.next && place >= none_below {
                break;
            }
            let row = order.early.remove(&place).flatten();
            order.next = place + 1;
            order.fold(row);
        }
        if order.peak > self.room {
            return ControlFlow::Break(EvalError::TooManySamples);
        }
        ControlFlow::Continue(None)
    }

    /// The result, the points that it holds, and the most that were held.
    fn finish(self) -> (Vec<Row>, usize, usize) {
        let mut order = self.order.into_inner().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, row)) = order.early.pop_first() {
            order.fold(row);
        }
        let peak = order.peak;
        let rows = order.groups.finish(self.steps);
        let held = rows.iter().map(|row| row.values.len()).sum();
        (rows, held, peak)
    }
}

impl Order {
    fn fold(&mut self, row: Option<Row>) {
        let Some(row) = row else { return };
        let points = row.values.len();
        self.groups.add(row);
        self.peak = self.peak.max(self.groups.points() + points);
    }
}

impl Groups {
    /// Points of groups and of chosen rows, and of what ranks these at most.
    fn points(&self) -> usize {
        let per_step =
            if matches!(self.parameter, Parameter::None) { Accumulator::numbers_per_step(self.op) } else { 0 };
        (self.all.len() * per_step + self.chosen.len() * 2) * self.steps
    }

    /// Adds a row to its group.
    fn add(&mut self, row: Row) {
        if let Parameter::Ratios(ratios) = &self.parameter {
            let mut row = row;
            take_share(&mut row, ratios);
            if row.values.iter().any(|v| !is_absent(*v)) {
                self.chosen.insert(self.next_row, (row, 1));
                self.next_row += 1;
            }
            return;
        }
        let group = self.group_of(&row);
        let Self { all, parameter, chosen, next_row, op, .. } = self;
        match (&mut all[group].state, &*parameter) {
            (State::Accumulated(accumulator), _) => accumulator.add(&row.values),
            (State::Best(steps), Parameter::Counts(counts)) => {
                let number = *next_row;
                *next_row += 1;
                let mut taken = 0;
                for ((best, count), value) in steps.iter_mut().zip(counts).zip(&row.values) {
                    if is_absent(*value) || *count == 0 {
                        continue;
                    }
                    // Of equal ones the first stays, as in a stable sort.
                    let at = match op {
                        AggregateOp::Topk => best.partition_point(|(b, _)| rank(*value, *b).is_le()),
                        AggregateOp::Bottomk => best.partition_point(|(b, _)| rank_ascending(*b, *value).is_le()),
                        _ => best.len(),
                    };
                    if at >= *count {
                        continue;
                    }
                    if best.len() == *count
                        && let Some((_, out)) = best.pop()
                        && let Some((_, steps)) = chosen.get_mut(&out)
                    {
                        *steps -= 1;
                        if *steps == 0 {
                            chosen.remove(&out);
                        }
                    }
                    best.insert(at, (*value, number));
                    taken += 1;
                }
                if taken > 0 {
                    chosen.insert(number, (row, taken));
                }
            }
            (State::Best(_), _) => {}
        }
    }

    fn group_of(&mut self, row: &Row) -> usize {
        let Self { key, grouping, .. } = self;
        key.clear();
        let mut put = |text: &str| {
            key.extend_from_slice(&(text.len() as u64).to_le_bytes());
            key.extend_from_slice(text.as_bytes());
        };
        match &*grouping {
            // A missing label is an empty one.
            Grouping::By(names) => names.iter().for_each(|name| put(row.labels.get(name).unwrap_or(""))),
            Grouping::Without(names) => {
                for label in row.labels.iter().filter(|label| is_kept_without(&label.name, names)) {
                    put(&label.name);
                    put(&label.value);
                }
            }
        }
        let group = self.at.get(self.key.as_slice()).copied().unwrap_or_else(|| {
            let state = match &self.parameter {
                Parameter::None => State::Accumulated(Accumulator::new(self.op, self.steps)),
                _ => State::Best(vec![Vec::new(); self.steps]),
            };
            let labels = group_labels(&row.labels, &self.grouping);
            self.all.push(Group { labels, drop_name: false, state });
            self.at.insert(self.key.as_slice().into(), self.all.len() - 1);
            self.all.len() - 1
        });
        let by_name = matches!(&self.grouping, Grouping::By(labels) if labels.iter().any(|l| l == METRIC_NAME));
        self.all[group].drop_name |= by_name && row.drop_name;
        group
    }

    fn finish(self, steps: usize) -> Vec<Row> {
        let (mut chosen, strips_chosen) = (self.chosen, self.strips_chosen);
        if matches!(self.parameter, Parameter::Ratios(_)) {
            return chosen.into_values().map(|(row, _)| row).collect();
        }
        let mut rows = Vec::new();
        let mut kept: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut ranked = Vec::new();
        for Group { labels, drop_name, state } in self.all {
            match state {
                State::Accumulated(all) => rows.push(Row { labels, values: all.finish(), drop_name }),
                State::Best(best) => {
                    for (step, best) in best.into_iter().enumerate() {
                        for (value, number) in best {
                            kept.entry(number).or_insert_with(|| vec![ABSENT; steps])[step] = value;
                            ranked.push(number);
                        }
                    }
                }
            }
        }
        // The result of one step is in order of rank within its group, else in that of labels.
        let order: Vec<usize> = if steps == 1 { ranked } else { kept.keys().copied().collect() };
        rows.extend(order.into_iter().filter_map(|number| {
            let (row, _) = chosen.remove(&number)?;
            let labels = if strips_chosen { without_metadata(&row.labels) } else { row.labels };
            Some(Row { labels, values: kept.remove(&number)?, drop_name: row.drop_name })
        }));
        rows
    }
}

impl Engine<'_> {
    /// The aggregation, made series by series; none where it can't be.
    pub(crate) fn folded(
        &self,
        op: AggregateOp,
        parameter: Option<&[f64]>,
        over: &Expr,
        grouping: &Grouping,
        steps: Steps,
    ) -> Evaluated<Option<Vec<Row>>> {
        let parameter = match (op, parameter) {
            (AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk, Some(k)) => {
                let counts = counts(k)?;
                // One step of a range is ordered otherwise than an instant.
                if counts.iter().any(|count| *count > MAX_CHOSEN) || (steps.count == 1) != self.is_instant() {
                    return Ok(None);
                }
                Parameter::Counts(counts)
            }
            (AggregateOp::LimitRatio, Some(ratios)) => Parameter::Ratios(ratios.to_vec()),
            (AggregateOp::Quantile | AggregateOp::CountValues, _) | (_, Some(_)) => return Ok(None),
            _ => Parameter::None,
        };
        let Some(pipeline) = self.pipeline(over, steps)? else { return Ok(None) };
        let names_go = pipeline.drops_name && !self.delays_names();
        // New labels cost more than the sum; rows that are only grouped mostly need none, and those that are chosen in the end.
        let strips_names = match grouping {
            _ if !names_go => Strip::Nothing,
            _ if matches!(parameter, Parameter::Ratios(_)) => Strip::All,
            Grouping::By(names) if names.iter().any(|name| is_metadata(name)) => Strip::All,
            Grouping::By(_) => Strip::Nothing,
            Grouping::Without(_) => Strip::Metadata,
        };
        let groups = Groups {
            op,
            grouping: grouping.clone(),
            steps: steps.count,
            at: HashMap::new(),
            key: Vec::new(),
            all: Vec::new(),
            parameter,
            strips_chosen: names_go,
            chosen: BTreeMap::new(),
            next_row: 0,
        };
        let order = Order { next: 0, last: 0, early: BTreeMap::new(), peak: 0, groups };
        let Pipeline { leaf, selector, stages, drops_name } = pipeline;
        let counts_only = matches!(op, AggregateOp::Count | AggregateOp::Group) && stages.is_empty();
        let fold = Arc::new(Fold {
            stages,
            strips_names,
            drop_name: drops_name && self.delays_names(),
            steps: steps.count,
            room: self.room(),
            order: Mutex::new(order),
        });
        *self.fold.borrow_mut() = Some(Arc::clone(&fold));
        self.longest.set(0);
        let left = if counts_only && matches!(leaf.kind, ExprKind::Selector(_)) {
            self.instant_vector_of(selector, steps, Yield::Presence)
        } else {
            self.vector(leaf, steps)
        };
        // What takes rows from elsewhere, roll-ups, has not asked for it.
        *self.fold.borrow_mut() = None;
        let left = left?;
        for (place, row) in left.into_iter().enumerate() {
            self.release(row.values.len());
            if let ControlFlow::Break(error) = fold.take::<()>(place, Some(row)) {
                return Err(error);
            }
        }
        let fold =
            Arc::into_inner(fold).ok_or_else(|| EvalError::Execution("a series is still being read".to_owned()))?;
        self.release_stages(&fold.stages);
        let (rows, held, peak) = fold.finish();
        // A row was there beside the groups, and the series that it was made of beside it.
        self.charge(peak + self.longest.get())?;
        self.release(peak + self.longest.get());
        self.charge(held)?;
        Ok(Some(rows))
    }

    fn release_stages(&self, stages: &[Stage]) {
        for stage in stages {
            if let Stage::Scalar { scalar, .. } = stage {
                self.release(scalar.len());
            }
        }
    }

    /// The selector or function that rows come from, and what is done with each; none where rows depend on each other.
    fn pipeline<'e>(&self, expr: &'e Expr, steps: Steps) -> Evaluated<Option<Pipeline<'e>>> {
        match &expr.kind {
            ExprKind::Paren(inner) | ExprKind::Plus(inner) => self.pipeline(inner, steps),
            ExprKind::Selector(selector) if selector.edges == Edges::Plain => {
                Ok(Some(Pipeline { leaf: expr, selector, stages: Vec::new(), drops_name: false }))
            }
            ExprKind::Negate(inner) => self.mapped(inner, steps, |v| -v),
            ExprKind::Call { function, args } => {
                if let (Some(f), [arg]) = (elementwise(function.name), args.as_slice()) {
                    return self.mapped(arg, steps, f);
                }
                let mut selectors = args.iter().filter_map(|arg| match &arg.unparen().kind {
                    ExprKind::Matrix { selector, .. } => Some(selector),
                    _ => None,
                });
                let (Some(selector), None) = (selectors.next(), selectors.next()) else { return Ok(None) };
                // Whatever else is read would take the place of the selector; remarks on quantiles wait for rows.
                let plain =
                    |arg: &Expr| matches!(&arg.unparen().kind, ExprKind::Matrix { .. } | ExprKind::Number { .. });
                if !args.iter().all(plain) || matches!(function.name, "absent_over_time" | "quantile_over_time") {
                    return Ok(None);
                }
                let pipeline = Pipeline { leaf: expr, selector, stages: Vec::new(), drops_name: false };
                let keeps_name = matches!(function.name, "last_over_time" | "first_over_time");
                Ok(if keeps_name { Some(pipeline) } else { self.without_name(pipeline) })
            }
            ExprKind::Binary(chain) => {
                let scalar = |expr: &Expr| kind_of(expr) == QueryKind::Scalar;
                let [link, rest @ ..] = chain.links.as_slice() else { return Ok(None) };
                let is_left = scalar(&chain.first);
                let (vector, first) = if is_left { (&link.rhs, &chain.first) } else { (&chain.first, &link.rhs) };
                if scalar(vector) || !scalar(first) || !rest.iter().all(|link| scalar(&link.rhs)) {
                    return Ok(None);
                }
                if chain.links.iter().any(|link| link.op.is_trim() || link.op.is_set()) {
                    return Ok(None);
                }
                let drops_name = chain.links.iter().any(|link| !link.op.is_comparison() || link.returns_bool);
                let pipeline = self.pipeline(vector, steps)?;
                let pipeline = if drops_name { pipeline.and_then(|p| self.without_name(p)) } else { pipeline };
                let Some(mut pipeline) = pipeline else { return Ok(None) };
                let operands = std::iter::once((link, first, is_left)).chain(rest.iter().map(|l| (l, &l.rhs, false)));
                for (link, operand, is_left) in operands {
                    let scalar = self.scalar(operand, steps)?;
                    let (op, returns_bool) = (link.op, link.returns_bool);
                    pipeline.stages.push(Stage::Scalar { op, returns_bool, scalar, is_left });
                }
                Ok(Some(pipeline))
            }
            _ => Ok(None),
        }
    }

    /// The pipeline of `inner` with one stage more.
    fn mapped<'e>(&self, inner: &'e Expr, steps: Steps, f: fn(f64) -> f64) -> Evaluated<Option<Pipeline<'e>>> {
        let Some(mut pipeline) = self.pipeline(inner, steps)?.and_then(|pipeline| self.without_name(pipeline)) else {
            return Ok(None);
        };
        pipeline.stages.push(Stage::Map(f));
        Ok(Some(pipeline))
    }

    /// The pipeline with names dropped; none where two series may then be one.
    fn without_name<'e>(&self, pipeline: Pipeline<'e>) -> Option<Pipeline<'e>> {
        if self.delays_names() || pipeline.selector.metric_name().is_some() {
            return Some(Pipeline { drops_name: true, ..pipeline });
        }
        self.release_stages(&pipeline.stages);
        None
    }
}

/// Gives a row to where rows go, or keeps it.
pub(crate) fn deliver(fold: Option<&Fold>, place: usize, row: Option<Row>) -> Made<Row> {
    match fold {
        Some(fold) => fold.take(place, row),
        None => ControlFlow::Continue(row.map(|row| {
            let size = row.values.len();
            (row, size)
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(op: AggregateOp, parameter: Parameter, steps: usize) -> Fold {
        let groups = Groups {
            op,
            grouping: Grouping::By(vec!["g".to_owned()]),
            steps,
            at: HashMap::new(),
            key: Vec::new(),
            all: Vec::new(),
            parameter,
            strips_chosen: false,
            chosen: BTreeMap::new(),
            next_row: 0,
        };
        let order = Order { next: 0, last: 0, early: BTreeMap::new(), peak: 0, groups };
        let (stages, room) = (Vec::new(), usize::MAX);
        Fold { stages, strips_names: Strip::Nothing, drop_name: false, steps, room, order: Mutex::new(order) }
    }

    /// Places as far out of order as they may be, some left out.
    fn places(count: usize) -> Vec<usize> {
        let block = SERIES_OUT_OF_ORDER;
        (0..count.div_ceil(block))
            .flat_map(|b| (b * block..count.min((b + 1) * block)).rev())
            .filter(|p| p % 7 != 3)
            .collect()
    }

    #[test]
    fn two_hundred_thousand_rows_are_never_in_memory_at_once() {
        const STEPS: usize = 30;
        let ranked = || Parameter::Counts(vec![5; STEPS]);
        for (op, parameter, groups) in [
            (AggregateOp::Sum, Parameter::None, 50),
            (AggregateOp::Avg, Parameter::None, 50),
            (AggregateOp::Topk, ranked(), 2),
        ] {
            let fold = fold(op, parameter, STEPS);
            let mut live_rows = 0;
            for place in places(200_000) {
                let labels = Labels::from_pairs([("g", (place % groups).to_string())]);
                let value = ((place * 7_919) % 10_007) as f64;
                let row = Row { labels, values: vec![value; STEPS], drop_name: false };
                assert!(fold.take::<()>(place, Some(row)).is_continue());
                let order = fold.order.lock().expect("lock");
                live_rows = live_rows.max(order.early.len() + order.groups.points() / STEPS);
            }
            assert!(live_rows < 2 * SERIES_OUT_OF_ORDER, "{live_rows} of 200,000 rows at once");
            let (rows, held, peak) = fold.finish();
            assert!(peak < 500 * STEPS && held == rows.len() * STEPS, "{peak} {held}");
            assert!(rows.iter().all(|row| row.values.iter().all(|v| !is_absent(*v))));
        }
    }

    #[test]
    fn rows_go_in_in_order_whatever_order_they_come_in() {
        // A sum that every other order rounds otherwise.
        let value = |place: usize| ((place * 7_919) % 10_007) as f64 * 10_f64.powi((place % 40) as i32);
        let sum = |places: &[usize]| {
            let fold = fold(AggregateOp::Sum, Parameter::None, 1);
            for place in places {
                let row = Row { labels: Labels::default(), values: vec![value(*place)], drop_name: false };
                assert!(fold.take::<()>(*place, Some(row)).is_continue());
            }
            fold.finish().0[0].values[0]
        };
        let scattered = places(5_000);
        let mut ordered = scattered.clone();
        ordered.sort_unstable();
        assert_eq!(sum(&scattered).to_bits(), sum(&ordered).to_bits());
    }
}
