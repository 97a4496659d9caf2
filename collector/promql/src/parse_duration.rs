//! Parses the arithmetic of durations, in brackets and after `offset`.

use crate::ast::{Length, Span};
use crate::duration::{DurationExpr, DurationKind, DurationOp, SECONDS_MAX, UNARY_PRECEDENCE, Zero};
use crate::lex::Token;
use crate::parse::{MAX_DEPTH, Parsed, Parser};

const OFFSET_EXPECTED: &str = "number, duration, step(), or range()";

impl Parser<'_> {
    /// What follows `offset`: no operator without parentheses, because `x offset 1m + y` adds `y` to `x offset 1m`.
    pub(crate) fn offset(&mut self) -> Parsed<Length> {
        let start = self.start();
        let negative = self.is_sign("-");
        let signed = negative || self.accept("+");
        if negative {
            self.next();
        }
        let operand = self.duration_primary("offset", OFFSET_EXPECTED)?;
        let operand = if signed { self.with_sign(start, negative, operand)? } else { operand };
        operand.into_length(self, Zero::Allowed)
    }

    pub(crate) fn duration_expression(&mut self, context: &str, expected: &str) -> Parsed<DurationExpr> {
        self.duration_operators(0, context, expected)
    }

    fn duration_operators(&mut self, least: u8, context: &str, expected: &str) -> Parsed<DurationExpr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_deep(self.start()));
        }
        let mut lhs = self.duration_unary(context, expected)?;
        while let Some(op) = self.duration_operator() {
            let precedence = op.precedence();
            if precedence < least {
                break;
            }
            let sign = self.start();
            self.next();
            let right_associative = op == DurationOp::Pow;
            let rhs = self.duration_operators(
                if right_associative { precedence } else { precedence + 1 },
                context,
                expected,
            )?;
            if matches!(rhs.kind, DurationKind::Number { seconds: 0.0, .. }) {
                match op {
                    DurationOp::Div => return Err(self.error_at(sign, "division by zero")),
                    DurationOp::Mod => return Err(self.error_at(sign, "modulo by zero")),
                    _ => {}
                }
            }
            let (start, depth) = (lhs.span.start, lhs.depth.max(rhs.depth) + 1);
            lhs = self.duration_node(start, depth, DurationKind::Binary(op, Box::new(lhs), Box::new(rhs)))?;
        }
        self.depth -= 1;
        Ok(lhs)
    }

    fn duration_operator(&self) -> Option<DurationOp> {
        let Token::Sign(sign) = self.peek() else { return None };
        [DurationOp::Add, DurationOp::Sub, DurationOp::Mul, DurationOp::Div, DurationOp::Mod, DurationOp::Pow]
            .into_iter()
            .find(|op| op.sign() == *sign)
    }

    fn duration_unary(&mut self, context: &str, expected: &str) -> Parsed<DurationExpr> {
        let start = self.start();
        let negative = self.is_sign("-");
        if !negative && !self.is_sign("+") {
            return self.duration_primary(context, expected);
        }
        self.next();
        // Looser than `^` and as tight as `*`: `-2 ^ 2` is `-(2 ^ 2)`.
        let operand = self.duration_operators(UNARY_PRECEDENCE + 1, context, expected)?;
        self.with_sign(start, negative, operand)
    }

    fn with_sign(&self, start: usize, negative: bool, operand: DurationExpr) -> Parsed<DurationExpr> {
        if !negative {
            return Ok(operand);
        }
        match operand.kind {
            DurationKind::Number { seconds, is_duration } => {
                self.duration_node(start, 1, DurationKind::Number { seconds: -seconds, is_duration })
            }
            _ => self.duration_node(start, operand.depth + 1, DurationKind::Negate(Box::new(operand))),
        }
    }

    fn duration_primary(&mut self, context: &str, expected: &str) -> Parsed<DurationExpr> {
        let start = self.start();
        if let Some((seconds, is_duration)) = self.number() {
            if !seconds.is_finite() || seconds.abs() > SECONDS_MAX {
                return Err(self.error_at(start, "duration out of range"));
            }
            return self.duration_node(start, 1, DurationKind::Number { seconds, is_duration });
        }
        for (word, kind) in [("step", DurationKind::Step), ("range", DurationKind::Range)] {
            if self.opens(word) {
                self.next();
                self.next();
                self.expect(")")?;
                return self.duration_node(start, 1, kind);
            }
        }
        // `min` and `max` are what Prometheus called them before 3.13.
        let least = self.opens("min_of") || self.opens("min");
        if least || self.opens("max_of") || self.opens("max") {
            self.next();
            self.next();
            let a = Box::new(self.duration_operators(0, context, expected)?);
            self.expect(",")?;
            let b = Box::new(self.duration_operators(0, context, expected)?);
            self.expect(")")?;
            let depth = a.depth.max(b.depth) + 1;
            let kind = if least { DurationKind::MinOf(a, b) } else { DurationKind::MaxOf(a, b) };
            return self.duration_node(start, depth, kind);
        }
        if self.accept("(") {
            let inner = self.duration_operators(0, context, expected)?;
            self.expect(")")?;
            // Parentheses around a number say nothing.
            if matches!(inner.kind, DurationKind::Number { .. }) {
                return Ok(inner);
            }
            return self.duration_node(start, inner.depth + 1, DurationKind::Paren(Box::new(inner)));
        }
        Err(self.unexpected(context, expected))
    }

    fn duration_node(&self, start: usize, depth: usize, kind: DurationKind) -> Parsed<DurationExpr> {
        if depth > MAX_DEPTH {
            return Err(self.too_deep(start));
        }
        Ok(DurationExpr { span: Span { start, end: self.end() }, kind, depth })
    }
}

impl DurationExpr {
    /// A plain number becomes milliseconds at once.
    pub(crate) fn into_length(self, parser: &Parser<'_>, zero: Zero) -> Parsed<Length> {
        let DurationKind::Number { seconds, .. } = self.kind else { return Ok(Length::Computed(Box::new(self))) };
        // Go keeps nanoseconds; what is finer than a millisecond is cut off when it is used.
        let ms = ((seconds * 1e9).round() / 1e6) as i64;
        if zero == Zero::Refused && (seconds <= 0.0 || ms <= 0) {
            return Err(parser.error_at(self.span.start, "duration must be greater than 0"));
        }
        Ok(Length::Millis(ms))
    }
}
