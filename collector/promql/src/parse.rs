//! Builds and type-checks the tree of a query, in the words of Prometheus' own parser.
//!
//! Written here and not taken from the crate `promql-parser` (0.11.1), which keeps no positions (Prometheus' remarks
//! name them), panics on `x[1e300]` and reads `x[99999999999y1s]` as one second. It stays a second opinion in the tests.
//!
//! The parser recurses, and so does everything that walks the tree, so depth is bounded here, once.

use veghe_model::{METRIC_NAME, MatchOp, Matcher, is_label_name};

use crate::ast::{
    AggregateOp, At, Binary, BinaryOp, Cardinality, Expr, ExprKind, Grouping, Matching, Selector, Span, When,
};
use crate::functions::{self, Function, Variadic};
use crate::lex::{Lexeme, Token, lex};
use crate::{ParseError, QueryKind};

/// Levels of a query. Far beyond what people write; small enough for a thread's stack of 2 MiB without optimisation.
pub(crate) const MAX_DEPTH: usize = 150;

/// Bytes of a query, so that the tree's size is bounded before it is built.
pub(crate) const MAX_BYTES: usize = 1 << 20;

pub(crate) fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::new(text, 0, format!("query is longer than {MAX_BYTES} bytes")));
    }
    let mut parser = Parser { text, lexemes: lex(text)?, at: 0, depth: 0 };
    if parser.peek() == &Token::End {
        return Err(parser.error("no expression found in input"));
    }
    let expr = parser.expression(0)?;
    if parser.peek() != &Token::End {
        return Err(parser.unexpected(""));
    }
    Ok(expr)
}

/// The matchers of a selector that stands alone, as in `match[]`; they may all match the empty label.
pub(crate) fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::new(text, 0, format!("selector is longer than {MAX_BYTES} bytes")));
    }
    let mut parser = Parser { text, lexemes: lex(text)?, at: 0, depth: 0 };
    let name = match parser.peek().clone() {
        Token::Word(name) => {
            parser.next();
            Some(name)
        }
        Token::Sign("{") => None,
        _ => return Err(parser.unexpected("")),
    };
    let matchers = parser.matchers(0, name.as_deref())?;
    if parser.peek() != &Token::End {
        return Err(parser.unexpected(""));
    }
    Ok(matchers)
}

struct Parser<'a> {
    text: &'a str,
    lexemes: Vec<Lexeme>,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.lexemes[self.at].token
    }

    fn peek_after(&self) -> &Token {
        self.lexemes.get(self.at + 1).map_or(&Token::End, |l| &l.token)
    }

    fn start(&self) -> usize {
        self.lexemes[self.at].start
    }

    /// Where the token before this one ends.
    fn end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |at| self.lexemes[at].end)
    }

    fn next(&mut self) -> Token {
        let token = self.lexemes[self.at].token.clone();
        // The last token is `End`; it is never left behind.
        if self.at + 1 < self.lexemes.len() {
            self.at += 1;
        }
        token
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        self.error_at(self.start(), message)
    }

    fn error_at(&self, offset: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, offset, message.into())
    }

    fn unexpected(&self, context: &str) -> ParseError {
        let what = match self.peek() {
            Token::Word(word) => format!("identifier {word:?}"),
            Token::Number(_) => format!("number {:?}", self.here()),
            Token::Duration(_) => format!("duration {:?}", self.here()),
            Token::String(_) => format!("string {}", self.here()),
            Token::Sign(sign) => format!("{sign:?}"),
            Token::End => "end of input".to_owned(),
        };
        self.error(format!("unexpected {what}{context}"))
    }

    fn here(&self) -> &str {
        let lexeme = &self.lexemes[self.at];
        self.text.get(lexeme.start..lexeme.end).unwrap_or("")
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn accept(&mut self, sign: &str) -> bool {
        let there = self.is_sign(sign);
        if there {
            self.next();
        }
        there
    }

    fn expect(&mut self, sign: &str, context: &str) -> Parsed<()> {
        if self.accept(sign) { Ok(()) } else { Err(self.unexpected(&format!(" in {context}, expected {sign:?}"))) }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        if there {
            self.next();
        }
        there
    }

    fn node(&self, start: usize, depth: usize, kind: ExprKind) -> Parsed<Expr> {
        if depth > MAX_DEPTH {
            return Err(self.error_at(start, format!("expression is nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(Expr { span: Span { start, end: self.end() }, kind, depth })
    }

    fn binary_operator(&self) -> Option<BinaryOp> {
        Some(match self.peek() {
            Token::Sign(sign) => match *sign {
                "+" => BinaryOp::Add,
                "-" => BinaryOp::Sub,
                "*" => BinaryOp::Mul,
                "/" => BinaryOp::Div,
                "%" => BinaryOp::Mod,
                "^" => BinaryOp::Pow,
                "==" => BinaryOp::Eq,
                "!=" => BinaryOp::Ne,
                "<" => BinaryOp::Lt,
                "<=" => BinaryOp::Le,
                ">" => BinaryOp::Gt,
                ">=" => BinaryOp::Ge,
                _ => return None,
            },
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "and" => BinaryOp::And,
                "or" => BinaryOp::Or,
                "unless" => BinaryOp::Unless,
                "atan2" => BinaryOp::Atan2,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn expression(&mut self, least: u8) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("expression is nested more than {MAX_DEPTH} levels deep")));
        }
        let expr = self.expression_within(least);
        self.depth -= 1;
        expr
    }

    fn expression_within(&mut self, least: u8) -> Parsed<Expr> {
        let mut lhs = self.unary()?;
        while let Some(op) = self.binary_operator() {
            let precedence = op.precedence();
            if precedence < least {
                break;
            }
            self.next();
            let returns_bool = self.accept_word("bool");
            let matching = self.matching()?;
            let right_associative = op == BinaryOp::Pow;
            let rhs = self.expression(if right_associative { precedence } else { precedence + 1 })?;
            lhs = self.binary(op, lhs, rhs, returns_bool, matching)?;
        }
        Ok(lhs)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let start = self.start();
        let negative = self.is_sign("-");
        if !negative && !self.is_sign("+") {
            return self.postfix();
        }
        self.next();
        let operand = self.expression(BinaryOp::Pow.precedence())?;
        if let ExprKind::Number(v) = operand.kind {
            return self.node(start, 1, ExprKind::Number(if negative { -v } else { v }));
        }
        let kind = kind_of(&operand);
        if !matches!(kind, QueryKind::Scalar | QueryKind::Vector) {
            return Err(self.error_at(
                operand.span.start,
                format!(
                    "unary expression only allowed on expressions of type scalar or instant vector, got {:?}",
                    kind.words()
                ),
            ));
        }
        let (depth, operand) = (operand.depth + 1, Box::new(operand));
        self.node(start, depth, if negative { ExprKind::Negate(operand) } else { ExprKind::Plus(operand) })
    }

    fn matching(&mut self) -> Parsed<Option<Matching>> {
        let mut matching =
            Matching { on: Grouping::Without(Vec::new()), cardinality: Cardinality::OneToOne, fill: (None, None) };
        let mut written = false;
        if self.is_word("on") || self.is_word("ignoring") {
            let on = self.is_word("on");
            self.next();
            let labels = self.label_names()?;
            matching.on = if on { Grouping::By(labels) } else { Grouping::Without(labels) };
            written = true;
            if self.is_word("group_left") || self.is_word("group_right") {
                let left = self.is_word("group_left");
                self.next();
                let labels = if self.is_sign("(") { self.label_names()? } else { Vec::new() };
                matching.cardinality =
                    if left { Cardinality::ManyToOne(labels) } else { Cardinality::OneToMany(labels) };
            }
        } else if self.is_word("group_left") || self.is_word("group_right") {
            return Err(self.error(format!("unexpected <{}>", self.here().to_ascii_lowercase())));
        }
        // A metric may be called `fill`; the modifier is the one with a number in parentheses.
        while self.peek_after() == &Token::Sign("(")
            && (self.is_word("fill") || self.is_word("fill_left") || self.is_word("fill_right"))
        {
            let (left, right) = (!self.is_word("fill_right"), !self.is_word("fill_left"));
            self.next();
            self.next();
            let value = self.signed_number("fill value")?;
            self.expect(")", "fill modifier")?;
            if left {
                matching.fill.0 = Some(value);
            }
            if right {
                matching.fill.1 = Some(value);
            }
            written = true;
        }
        Ok(written.then_some(matching))
    }

    fn signed_number(&mut self, context: &str) -> Parsed<f64> {
        let negative = self.is_sign("-");
        if negative || self.is_sign("+") {
            self.next();
        }
        let value = match self.peek() {
            Token::Number(v) => *v,
            Token::Duration(ms) => *ms as f64 / 1000.0,
            Token::Word(word) => match special_number(word) {
                Some(v) => v,
                None => return Err(self.unexpected(&format!(" in {context}, expected number"))),
            },
            _ => return Err(self.unexpected(&format!(" in {context}, expected number"))),
        };
        self.next();
        Ok(if negative { -value } else { value })
    }

    fn label_names(&mut self) -> Parsed<Vec<String>> {
        self.expect("(", "grouping opts")?;
        let mut names = Vec::new();
        while !self.is_sign(")") {
            match self.peek().clone() {
                Token::Word(word) if is_label_name(&word) => names.push(word),
                Token::String(word) if !word.is_empty() => names.push(word),
                _ => return Err(self.unexpected(" in grouping opts, expected label")),
            }
            self.next();
            if !self.accept(",") && !self.is_sign(")") {
                return Err(self.unexpected(" in grouping opts, expected \",\" or \")\""));
            }
        }
        self.next();
        Ok(names)
    }

    fn binary(
        &self,
        op: BinaryOp,
        lhs: Expr,
        rhs: Expr,
        returns_bool: bool,
        matching: Option<Matching>,
    ) -> Parsed<Expr> {
        let start = lhs.span.start;
        let fail = |message: String| Err(self.error_at(start, message));
        let (left, right) = (kind_of(&lhs), kind_of(&rhs));
        if returns_bool && !op.is_comparison() {
            return fail("bool modifier can only be used on comparison operators".to_owned());
        }
        for (side, kind) in [(&lhs, left), (&rhs, right)] {
            if !matches!(kind, QueryKind::Scalar | QueryKind::Vector) {
                return Err(self
                    .error_at(side.span.start, "binary expression must contain only scalar and instant vector types"));
            }
        }
        if op.is_comparison() && !returns_bool && left == QueryKind::Scalar && right == QueryKind::Scalar {
            return fail("comparisons between scalars must use BOOL modifier".to_owned());
        }
        let between_vectors = left == QueryKind::Vector && right == QueryKind::Vector;
        if let Some(matching) = &matching {
            if !between_vectors {
                return fail("vector matching only allowed between instant vectors".to_owned());
            }
            if let (Grouping::By(on), Cardinality::ManyToOne(include) | Cardinality::OneToMany(include)) =
                (&matching.on, &matching.cardinality)
                && let Some(label) = on.iter().find(|l| include.contains(l))
            {
                return fail(format!("label {label:?} must not occur in ON and GROUP clause at once"));
            }
        }
        if op.is_set() {
            if !between_vectors {
                return fail(format!("set operator {:?} not allowed in binary scalar expression", op.name()));
            }
            if let Some(matching) = &matching {
                if matching.cardinality != Cardinality::OneToOne {
                    return fail(format!("no grouping allowed for {:?} operation", op.name()));
                }
                if matching.fill != (None, None) {
                    return fail("filling in missing series not allowed for set operators".to_owned());
                }
            }
        }
        let matching = matching.unwrap_or(Matching {
            on: Grouping::Without(Vec::new()),
            cardinality: Cardinality::OneToOne,
            fill: (None, None),
        });
        let depth = lhs.depth.max(rhs.depth) + 1;
        self.node(start, depth, ExprKind::Binary(Box::new(Binary { op, lhs, rhs, returns_bool, matching })))
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        loop {
            let start = expr.span.start;
            if self.accept("[") {
                expr = self.range_or_subquery(expr)?;
            } else if self.is_word("offset") && !matches!(self.peek_after(), Token::End) {
                self.next();
                let negative = self.is_sign("-");
                if negative || self.is_sign("+") {
                    self.next();
                }
                let ms = self.duration("offset", Zero::Allowed)?;
                let when = self.when(&mut expr, "offset")?;
                if when.offset_ms.is_some() {
                    return Err(self.error_at(start, "offset may not be set multiple times"));
                }
                when.offset_ms = Some(if negative { -ms } else { ms });
            } else if self.accept("@") {
                let at = self.at_moment()?;
                let when = self.when(&mut expr, "@")?;
                if when.at.is_some() {
                    return Err(self.error_at(start, "@ <timestamp> may not be set multiple times"));
                }
                when.at = Some(at);
            } else {
                return Ok(expr);
            }
            expr.span.end = self.end();
        }
    }

    fn when<'e>(&self, expr: &'e mut Expr, modifier: &str) -> Parsed<&'e mut When> {
        let start = expr.span.start;
        match &mut expr.kind {
            ExprKind::Selector(selector) | ExprKind::Matrix { selector, .. } => Ok(&mut selector.when),
            ExprKind::Subquery { when, .. } => Ok(when),
            _ => Err(self.error_at(
                start,
                format!("{modifier} modifier must be preceded by an instant vector selector or range vector selector or a subquery"),
            )),
        }
    }

    fn at_moment(&mut self) -> Parsed<At> {
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.is_word(word) && self.peek_after() == &Token::Sign("(") {
                self.next();
                self.next();
                self.expect(")", "@ modifier")?;
                return Ok(at);
            }
        }
        let start = self.start();
        let seconds = self.signed_number("@ modifier")?;
        let ms = (seconds * 1000.0).round();
        // Also keeps sums with ranges and offsets far away from overflow.
        if !ms.is_finite() || ms.abs() >= i64::MAX as f64 / 4.0 {
            return Err(self.error_at(start, format!("timestamp out of bounds for @ modifier: {seconds}")));
        }
        Ok(At::Millis(ms as i64))
    }

    fn duration(&mut self, context: &str, zero: Zero) -> Parsed<i64> {
        let start = self.start();
        let ms = match *self.peek() {
            Token::Duration(ms) => ms,
            Token::Number(seconds) if (seconds * 1000.0).abs() > (i64::MAX / 1_000_000) as f64 || seconds.is_nan() => {
                return Err(self.error("duration out of range"));
            }
            Token::Number(seconds) => (seconds * 1000.0).round() as i64,
            _ => return Err(self.unexpected(&format!(" in {context}, expected duration"))),
        };
        self.next();
        if ms <= 0 && zero == Zero::Refused {
            return Err(self.error_at(start, "duration must be greater than 0"));
        }
        Ok(ms)
    }

    fn range_or_subquery(&mut self, expr: Expr) -> Parsed<Expr> {
        let start = expr.span.start;
        let range_ms = self.duration("subquery or range selector", Zero::Refused)?;
        if self.accept(":") {
            let step_ms =
                if self.is_sign("]") { None } else { Some(self.duration("subquery selector", Zero::Refused)?) };
            self.expect("]", "subquery selector")?;
            let kind = kind_of(&expr);
            if kind != QueryKind::Vector {
                return Err(self.error_at(
                    start,
                    format!("subquery is only allowed on instant vector, got {} instead", kind.words()),
                ));
            }
            let depth = expr.depth + 1;
            let kind = ExprKind::Subquery { expr: Box::new(expr), range_ms, step_ms, when: When::default() };
            return self.node(start, depth, kind);
        }
        self.expect("]", "subquery or range selector")?;
        match expr.kind {
            ExprKind::Selector(selector) if selector.when.offset_ms.is_some() => {
                Err(self.error_at(start, "no offset modifiers allowed before range"))
            }
            ExprKind::Selector(selector) if selector.when.at.is_some() => {
                Err(self.error_at(start, "no @ modifiers allowed before range"))
            }
            ExprKind::Selector(selector) => self.node(start, 1, ExprKind::Matrix { selector, range_ms }),
            _ => Err(self.error_at(start, "ranges only allowed for vector selectors")),
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let start = self.start();
        match self.peek().clone() {
            Token::Number(value) => {
                self.next();
                self.node(start, 1, ExprKind::Number(value))
            }
            Token::Duration(ms) => {
                self.next();
                self.node(start, 1, ExprKind::Number(ms as f64 / 1000.0))
            }
            Token::String(value) => {
                self.next();
                self.node(start, 1, ExprKind::String(value))
            }
            Token::Sign("(") => {
                self.next();
                let expr = self.expression(0)?;
                self.expect(")", "paren expression")?;
                self.node(start, expr.depth + 1, ExprKind::Paren(Box::new(expr)))
            }
            Token::Sign("{") => self.selector(None),
            Token::Word(word) => self.word(start, &word),
            _ => Err(self.unexpected("")),
        }
    }

    fn word(&mut self, start: usize, word: &str) -> Parsed<Expr> {
        if self.peek_after() == &Token::Sign("{") {
            self.next();
            return self.selector(Some(word));
        }
        if let Some(value) = special_number(word) {
            self.next();
            return self.node(start, 1, ExprKind::Number(value));
        }
        let opens = self.peek_after() == &Token::Sign("(");
        let lower = word.to_ascii_lowercase();
        if let Some((_, op)) = AggregateOp::ALL.iter().find(|(name, _)| *name == lower) {
            let modified = matches!(self.peek_after(), Token::Word(w) if w.eq_ignore_ascii_case("by") || w.eq_ignore_ascii_case("without"));
            if opens || modified {
                self.next();
                return self.aggregate(start, *op);
            }
        }
        if opens {
            self.next();
            return self.call(start, word);
        }
        if ["bool", "on", "ignoring", "group_left", "group_right", "atan2"].contains(&lower.as_str()) {
            return Err(self.unexpected(""));
        }
        self.next();
        self.selector(Some(word))
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.expect("(", "function call")?;
        let mut args = Vec::new();
        if self.accept(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expression(0)?);
            if self.accept(")") {
                return Ok(args);
            }
            if !self.accept(",") {
                return Err(self.unexpected(" in function call, expected \",\" or \")\""));
            }
            if self.is_sign(")") {
                return Err(self.error("trailing commas not allowed in function call args"));
            }
        }
    }

    fn aggregate_modifier(&mut self) -> Parsed<Option<Grouping>> {
        if self.accept_word("by") {
            return Ok(Some(Grouping::By(self.label_names()?)));
        }
        if self.accept_word("without") {
            return Ok(Some(Grouping::Without(self.label_names()?)));
        }
        Ok(None)
    }

    fn aggregate(&mut self, start: usize, op: AggregateOp) -> Parsed<Expr> {
        let before = self.aggregate_modifier()?;
        let mut args = self.arguments()?;
        let grouping = match before {
            Some(grouping) => grouping,
            None => self.aggregate_modifier()?.unwrap_or(Grouping::By(Vec::new())),
        };
        let wanted = if op.has_parameter() { 2 } else { 1 };
        if args.is_empty() {
            return Err(self.error_at(start, "no arguments for aggregate expression provided"));
        }
        if args.len() != wanted {
            return Err(self.error_at(
                start,
                format!(
                    "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                    args.len()
                ),
            ));
        }
        let expr = args.pop().ok_or_else(|| self.error_at(start, "no arguments for aggregate expression provided"))?;
        let param = args.pop();
        self.expect_kind(&expr, QueryKind::Vector, "aggregation expression")?;
        if let Some(param) = &param {
            let kind = if op == AggregateOp::CountValues { QueryKind::String } else { QueryKind::Scalar };
            self.expect_kind(param, kind, "aggregation parameter")?;
        }
        let depth = expr.depth.max(param.as_ref().map_or(0, |p| p.depth)) + 1;
        self.node(start, depth, ExprKind::Aggregate { op, param: param.map(Box::new), expr: Box::new(expr), grouping })
    }

    fn expect_kind(&self, expr: &Expr, wanted: QueryKind, context: &str) -> Parsed<()> {
        let got = kind_of(expr);
        if got == wanted {
            return Ok(());
        }
        Err(self
            .error_at(expr.span.start, format!("expected type {} in {context}, got {}", wanted.words(), got.words())))
    }

    fn call(&mut self, start: usize, name: &str) -> Parsed<Expr> {
        let Some(function) = functions::find(name) else {
            return Err(self.error_at(start, format!("unknown function with name {name:?}")));
        };
        let args = self.arguments()?;
        self.check_arity(start, function, args.len())?;
        for (i, arg) in args.iter().enumerate() {
            if let Some(wanted) = function.args.get(i).or(function.args.last()) {
                self.expect_kind(arg, *wanted, &format!("call to function {name:?}"))?;
            }
        }
        if name == "info"
            && let Some(arg) = args.get(1)
            && !matches!(arg.kind, ExprKind::Selector(_))
        {
            return Err(
                self.error_at(arg.span.start, "expected label selectors as the second argument to \"info\" function")
            );
        }
        let depth = args.iter().map(|a| a.depth).max().unwrap_or(0) + 1;
        self.node(start, depth, ExprKind::Call { function, args })
    }

    fn check_arity(&self, start: usize, function: &Function, got: usize) -> Parsed<()> {
        let most = function.args.len();
        let (least, most) = match function.variadic {
            Variadic::No if got == most => return Ok(()),
            Variadic::No => {
                let message = format!("expected {most} argument(s) in call to {:?}, got {got}", function.name);
                return Err(self.error_at(start, message));
            }
            Variadic::Optional(optional) => (most - optional, most),
            Variadic::Any => (most - 1, usize::MAX),
        };
        if got < least {
            let message = format!("expected at least {least} argument(s) in call to {:?}, got {got}", function.name);
            return Err(self.error_at(start, message));
        }
        if got > most {
            let message = format!("expected at most {most} argument(s) in call to {:?}, got {got}", function.name);
            return Err(self.error_at(start, message));
        }
        Ok(())
    }

    /// The matchers in braces, if any, after a name that is already read.
    fn selector(&mut self, name: Option<&str>) -> Parsed<Expr> {
        let start = if name.is_some() { self.lexemes[self.at.saturating_sub(1)].start } else { self.start() };
        let matchers = self.matchers(start, name)?;
        if matchers.iter().all(Matcher::matches_empty) {
            return Err(self.error_at(start, "vector selector must contain at least one non-empty matcher"));
        }
        self.node(start, 1, ExprKind::Selector(Selector { matchers, when: When::default() }))
    }

    fn matchers(&mut self, start: usize, name: Option<&str>) -> Parsed<Vec<Matcher>> {
        let mut matchers = Vec::new();
        if let Some(name) = name {
            matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        if self.accept("{") {
            while !self.accept("}") {
                matchers.push(self.matcher()?);
                if !self.accept(",") && !self.is_sign("}") {
                    return Err(self.unexpected(" in label matching, expected \",\" or \"}\""));
                }
            }
        }
        if let Some(name) = name
            && let Some(second) = matchers.iter().skip(1).find(|m| m.name() == METRIC_NAME && m.op() == MatchOp::Equal)
        {
            let message = format!("metric name must not be set twice: {name:?} or {:?}", second.value());
            return Err(self.error_at(start, message));
        }
        Ok(matchers)
    }

    fn matcher(&mut self) -> Parsed<Matcher> {
        let start = self.start();
        let name = match self.next() {
            Token::Word(name) if is_label_name(&name) => name,
            Token::String(name) if self.is_sign(",") || self.is_sign("}") => {
                return Ok(Matcher::equal(METRIC_NAME, name));
            }
            Token::String(name) => name,
            _ => {
                self.at -= 1;
                return Err(self.unexpected(" in label matching, expected identifier or \"}\""));
            }
        };
        let op = match self.peek() {
            Token::Sign("=") => MatchOp::Equal,
            Token::Sign("!=") => MatchOp::NotEqual,
            Token::Sign("=~") => MatchOp::Regex,
            Token::Sign("!~") => MatchOp::NotRegex,
            _ => return Err(self.unexpected(" in label matching, expected label matching operator")),
        };
        self.next();
        let Token::String(value) = self.peek().clone() else {
            return Err(self.unexpected(" in label matching, expected string"));
        };
        self.next();
        Matcher::new(name, op, value).map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            self.error_at(start, format!("error parsing regexp: {cause}"))
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Zero {
    Allowed,
    Refused,
}

fn special_number(word: &str) -> Option<f64> {
    if word.eq_ignore_ascii_case("inf") {
        Some(f64::INFINITY)
    } else if word.eq_ignore_ascii_case("nan") {
        Some(f64::NAN)
    } else {
        None
    }
}

/// The type of an expression's result.
pub(crate) fn kind_of(expr: &Expr) -> QueryKind {
    let mut expr = expr;
    loop {
        return match &expr.kind {
            ExprKind::Number(_) => QueryKind::Scalar,
            ExprKind::String(_) => QueryKind::String,
            ExprKind::Selector(_) | ExprKind::Aggregate { .. } => QueryKind::Vector,
            ExprKind::Matrix { .. } | ExprKind::Subquery { .. } => QueryKind::Matrix,
            ExprKind::Call { function, .. } => function.returns,
            ExprKind::Paren(inner) | ExprKind::Negate(inner) | ExprKind::Plus(inner) => {
                expr = inner;
                continue;
            }
            ExprKind::Binary(b) => match (kind_of(&b.lhs), kind_of(&b.rhs)) {
                (QueryKind::Scalar, QueryKind::Scalar) => QueryKind::Scalar,
                _ => QueryKind::Vector,
            },
        };
    }
}
