//! Builds the tree of a query, in the words of Prometheus' own parser where the text breaks its grammar.
//!
//! Written here and not taken from the crate `promql-parser` (0.11.1), which keeps no positions (Prometheus' remarks
//! name them), knows none of the newer syntax, panics on `x[1e300]` and reads `x[99999999999y1s]` as one second. It
//! stays a second opinion in the tests.
//!
//! The parser recurses, and so does everything that walks the tree, so depth is bounded here, once. A chain of
//! operators is one level, however long.

use veghe_model::{METRIC_NAME, MatchOp, Matcher, is_label_name};

use crate::ast::{
    AggregateOp, At, BinaryOp, Cardinality, Chain, Edges, Expr, ExprKind, Grouping, Length, Link, Matching, Selector,
    Span, When,
};
use crate::duration::Zero;
use crate::lex::{Lexeme, Token, lex};
use crate::print::QuotedBytes;
use crate::{ParseError, functions};

/// Levels of a query. Far beyond what people write; small enough for a thread's stack of 2 MiB without optimisation.
pub(crate) const MAX_DEPTH: usize = 150;

/// Bytes of a query, so that the tree's size is bounded before it is built.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// The tree of `text`, its types not yet checked.
pub(crate) fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::new(text, 0, format!("query is longer than {MAX_BYTES} bytes")));
    }
    let mut parser = Parser { text, lexemes: lex(text), at: 0, depth: 0, regexes: 0 };
    if parser.peek() == &Token::End {
        return Err(parser.error("no expression found in input"));
    }
    let expr = parser.expression(0)?;
    if parser.peek() != &Token::End {
        return Err(parser.unexpected("", ""));
    }
    Ok(expr)
}

/// The matchers of a selector that stands alone, as in `match[]`; they may all match the empty label.
pub(crate) fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::new(text, 0, format!("selector is longer than {MAX_BYTES} bytes")));
    }
    let mut parser = Parser { text, lexemes: lex(text), at: 0, depth: 0, regexes: 0 };
    let name = match parser.peek().clone() {
        Token::Word(name) => {
            parser.next();
            Some(name)
        }
        Token::Sign("{") => None,
        _ => return Err(parser.unexpected("", "")),
    };
    let expr = parser.selector(name)?;
    if parser.peek() != &Token::End {
        return Err(parser.unexpected("", ""));
    }
    let ExprKind::Selector(selector) = expr.kind else { return Err(parser.error("no selector found in input")) };
    crate::check::name_is_set_once(text, expr.span, &selector)?;
    Ok(selector.matchers)
}

/// Regular expressions in one text: each may take [`Matcher`]'s bound of memory once compiled.
const MAX_REGEXES: usize = 100;

pub(crate) struct Parser<'a> {
    pub(crate) text: &'a str,
    lexemes: Vec<Lexeme>,
    at: usize,
    pub(crate) depth: usize,
    regexes: usize,
}

pub(crate) type Parsed<T> = Result<T, ParseError>;

impl Parser<'_> {
    pub(crate) fn peek(&self) -> &Token {
        &self.lexemes[self.at].token
    }

    pub(crate) fn peek_after(&self) -> &Token {
        self.lexemes.get(self.at + 1).map_or(&Token::End, |l| &l.token)
    }

    pub(crate) fn start(&self) -> usize {
        self.lexemes[self.at].start
    }

    /// Where the token before this one ends.
    pub(crate) fn end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |at| self.lexemes[at].end)
    }

    pub(crate) fn next(&mut self) -> Token {
        let token = self.lexemes[self.at].token.clone();
        // The last token is `End` or what can't be read; it is never left behind.
        if self.at + 1 < self.lexemes.len() {
            self.at += 1;
        }
        token
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> ParseError {
        self.error_at(self.start(), message)
    }

    pub(crate) fn error_at(&self, offset: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, offset, message.into())
    }

    /// What stands here and can't, in which part of the grammar, and what may.
    pub(crate) fn unexpected(&self, context: &str, expected: &str) -> ParseError {
        let lexeme = &self.lexemes[self.at];
        if let Token::Wrong(error) = &lexeme.token {
            return self.error(error.clone());
        }
        let mut message = format!("unexpected {}", lexeme.description(self.text));
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(message)
    }

    pub(crate) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    pub(crate) fn accept(&mut self, sign: &str) -> bool {
        let there = self.is_sign(sign);
        if there {
            self.next();
        }
        there
    }

    pub(crate) fn expect(&mut self, sign: &str) -> Parsed<()> {
        if self.accept(sign) { Ok(()) } else { Err(self.unexpected("", "")) }
    }

    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        if there {
            self.next();
        }
        there
    }

    /// Whether `word(` stands here.
    pub(crate) fn opens(&self, word: &str) -> bool {
        self.is_word(word) && self.peek_after() == &Token::Sign("(")
    }

    pub(crate) fn too_deep(&self, offset: usize) -> ParseError {
        self.error_at(offset, format!("expression is nested more than {MAX_DEPTH} levels deep"))
    }

    fn node(&self, start: usize, depth: usize, kind: ExprKind) -> Parsed<Expr> {
        if depth > MAX_DEPTH {
            return Err(self.too_deep(start));
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
                "</" => BinaryOp::TrimUpper,
                ">/" => BinaryOp::TrimLower,
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
            return Err(self.too_deep(self.start()));
        }
        let expr = self.expression_within(least);
        self.depth -= 1;
        expr
    }

    fn expression_within(&mut self, least: u8) -> Parsed<Expr> {
        let first = self.unary()?;
        let (start, mut depth) = (first.span.start, first.depth);
        let mut links = Vec::new();
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
            depth = depth.max(rhs.depth);
            links.push(Link { op, returns_bool, matching, rhs });
        }
        if links.is_empty() {
            return Ok(first);
        }
        self.node(start, depth + 1, ExprKind::Binary(Box::new(Chain { first, links })))
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let start = self.start();
        let negative = self.is_sign("-");
        if !negative && !self.is_sign("+") {
            return self.postfix();
        }
        self.next();
        let operand = self.expression(BinaryOp::Pow.precedence())?;
        if let ExprKind::Number { value, is_duration } = operand.kind {
            let value = if negative { -value } else { value };
            return self.node(start, 1, ExprKind::Number { value, is_duration });
        }
        let (depth, operand) = (operand.depth + 1, Box::new(operand));
        self.node(start, depth, if negative { ExprKind::Negate(operand) } else { ExprKind::Plus(operand) })
    }

    fn matching(&mut self) -> Parsed<Matching> {
        let mut matching =
            Matching { on: Grouping::Without(Vec::new()), cardinality: Cardinality::OneToOne, fill: (None, None) };
        if self.is_word("on") || self.is_word("ignoring") {
            let on = self.is_word("on");
            self.next();
            let labels = self.label_names()?;
            matching.on = if on { Grouping::By(labels) } else { Grouping::Without(labels) };
            if self.is_word("group_left") || self.is_word("group_right") {
                let left = self.is_word("group_left");
                self.next();
                let labels = if self.is_sign("(") { self.label_names()? } else { Vec::new() };
                matching.cardinality =
                    if left { Cardinality::ManyToOne(labels) } else { Cardinality::OneToMany(labels) };
            }
        }
        // A metric may be called `fill`; the modifier is the one with parentheses.
        if self.opens("fill") {
            let value = self.fill_value()?;
            matching.fill = (Some(value), Some(value));
        } else if self.opens("fill_left") {
            matching.fill.0 = Some(self.fill_value()?);
            if self.opens("fill_right") {
                matching.fill.1 = Some(self.fill_value()?);
            }
        } else if self.opens("fill_right") {
            matching.fill.1 = Some(self.fill_value()?);
            if self.opens("fill_left") {
                matching.fill.0 = Some(self.fill_value()?);
            }
        }
        Ok(matching)
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.next();
        self.next();
        let value = self.signed_number().ok_or_else(|| self.unexpected("", ""))?;
        self.expect(")")?;
        Ok(value)
    }

    /// A number or duration in seconds with an optional sign, if one stands here.
    fn signed_number(&mut self) -> Option<f64> {
        let negative = self.is_sign("-");
        if negative || self.is_sign("+") {
            self.next();
        }
        let value = self.number()?.0;
        Some(if negative { -value } else { value })
    }

    /// A number and whether it is a duration (in seconds), if one stands here.
    pub(crate) fn number(&mut self) -> Option<(f64, bool)> {
        let number = match self.peek() {
            Token::Number(v) => (*v, false),
            Token::Duration(ms) => (*ms as f64 / 1000.0, true),
            Token::Word(word) => (special_number(word)?, false),
            _ => return None,
        };
        self.next();
        Some(number)
    }

    fn label_names(&mut self) -> Parsed<Vec<String>> {
        if !self.accept("(") {
            return Err(self.unexpected("grouping opts", "\"(\""));
        }
        let mut names = Vec::new();
        while !self.is_sign(")") {
            match self.peek().clone() {
                Token::Word(word) if is_label_name(&word) => names.push(word),
                Token::String(word) if !word.is_empty() => names.push(word),
                Token::Word(word) | Token::String(word) => {
                    return Err(self.error(format!("invalid label name for grouping: {word:?}")));
                }
                Token::Bytes(bytes) => {
                    return Err(self.error(format!("invalid label name for grouping: {}", QuotedBytes(&bytes))));
                }
                _ => return Err(self.unexpected("grouping opts", "label")),
            }
            self.next();
            if !self.accept(",") && !self.is_sign(")") {
                return Err(self.unexpected("grouping opts", "\",\" or \")\""));
            }
        }
        self.next();
        Ok(names)
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        loop {
            let start = expr.span.start;
            if self.is_sign("[") {
                expr = self.range_or_subquery(expr)?;
            } else if self.is_word("offset") {
                self.next();
                let offset = self.offset()?;
                let when = self.when(&mut expr, "offset")?;
                if when.offset.is_some() {
                    return Err(self.error_at(start, "offset may not be set multiple times"));
                }
                when.offset = Some(offset);
            } else if self.accept("@") {
                let at = self.at_moment(start)?;
                let when = self.when(&mut expr, "@")?;
                if when.at.is_some() {
                    return Err(self.error_at(start, "@ <timestamp> may not be set multiple times"));
                }
                when.at = Some(at);
            } else if self.accept_word("anchored") {
                self.set_edges(&mut expr, Edges::Anchored)?;
            } else if self.accept_word("smoothed") {
                self.set_edges(&mut expr, Edges::Smoothed)?;
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

    fn set_edges(&self, expr: &mut Expr, edges: Edges) -> Parsed<()> {
        let word = edges.word();
        let fail = |what: &str| Err(self.error_at(expr.span.start, what));
        match &mut expr.kind {
            ExprKind::Selector(selector) | ExprKind::Matrix { selector, .. } => {
                if selector.edges != Edges::Plain && selector.edges != edges {
                    return fail("anchored and smoothed modifiers cannot be used together");
                }
                selector.edges = edges;
                Ok(())
            }
            ExprKind::Subquery { .. } => fail(&format!("{word} modifier is not supported for subqueries")),
            _ => fail(&format!("{word} modifier not implemented")),
        }
    }

    fn at_moment(&mut self, start: usize) -> Parsed<At> {
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.opens(word) {
                self.next();
                self.next();
                self.expect(")")?;
                return Ok(at);
            }
        }
        let seconds = self.signed_number().ok_or_else(|| self.unexpected("@", "timestamp"))?;
        let ms = (seconds * 1000.0).round();
        // Also keeps sums with ranges and offsets far away from overflow.
        if !ms.is_finite() || ms.abs() >= i64::MAX as f64 / 4.0 {
            let seconds =
                if seconds.is_finite() { format!("{seconds:.6}") } else { crate::print::Number(seconds).to_string() };
            return Err(self.error_at(start, format!("timestamp out of bounds for @ modifier: {seconds}")));
        }
        Ok(At::Millis(ms as i64))
    }

    fn range_or_subquery(&mut self, expr: Expr) -> Parsed<Expr> {
        let (start, bracket) = (expr.span.start, self.start());
        self.next();
        let range = self.length(Zero::Refused, "subquery or range selector", "number, duration, step(), or range()")?;
        if self.accept(":") {
            let expected = "number, duration, step(), range(), or \"]\"";
            let step = if self.is_sign("]") {
                None
            } else {
                Some(self.length(Zero::Refused, "subquery selector", expected)?)
            };
            if !self.accept("]") {
                return Err(self.unexpected("subquery selector", "\"]\""));
            }
            let depth = expr.depth + 1;
            let kind = ExprKind::Subquery { expr: Box::new(expr), range, step, when: When::default() };
            return self.node(start, depth, kind);
        }
        if !self.accept("]") {
            return Err(self.unexpected("subquery or range", "\":\" or \"]\""));
        }
        let problem = match expr.kind {
            ExprKind::Selector(selector) if selector.when == When::default() => {
                return self.node(start, 1, ExprKind::Matrix { selector, range });
            }
            ExprKind::Selector(selector) if selector.when.offset.is_some() => {
                "no offset modifiers allowed before range"
            }
            ExprKind::Selector(_) => "no @ modifiers allowed before range",
            _ => "ranges only allowed for vector selectors",
        };
        Err(self.error_at(bracket, problem))
    }

    fn length(&mut self, zero: Zero, context: &str, expected: &str) -> Parsed<Length> {
        self.duration_expression(context, expected)?.into_length(self, zero)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let start = self.start();
        match self.peek().clone() {
            Token::Number(_) | Token::Duration(_) => {
                let (value, is_duration) = self.number().unwrap_or_default();
                self.node(start, 1, ExprKind::Number { value, is_duration })
            }
            Token::String(value) => {
                self.next();
                self.node(start, 1, ExprKind::String(value))
            }
            Token::Bytes(bytes) => {
                self.next();
                self.node(start, 1, ExprKind::Bytes(bytes))
            }
            Token::Sign("(") => {
                self.next();
                let expr = self.expression(0)?;
                self.expect(")")?;
                self.node(start, expr.depth + 1, ExprKind::Paren(Box::new(expr)))
            }
            Token::Sign("{") => self.selector(None),
            Token::Word(word) => self.word(start, word),
            _ => Err(self.unexpected("", "")),
        }
    }

    fn word(&mut self, start: usize, word: String) -> Parsed<Expr> {
        if self.peek_after() == &Token::Sign("{") && special_number(&word).is_none() {
            self.next();
            return self.selector(Some(word));
        }
        if let Some(value) = special_number(&word) {
            self.next();
            return self.node(start, 1, ExprKind::Number { value, is_duration: false });
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
            return self.call(start, &word);
        }
        if ["bool", "on", "ignoring", "group_left", "group_right", "atan2"].contains(&lower.as_str()) {
            return Err(self.unexpected("", ""));
        }
        self.next();
        self.selector(Some(word))
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.expect("(")?;
        let mut args = Vec::new();
        if self.accept(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expression(0)?);
            if self.accept(")") {
                return Ok(args);
            }
            let comma = self.start();
            self.expect(",")?;
            if self.is_sign(")") {
                return Err(self.error_at(comma, "trailing commas not allowed in function call args"));
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
        if !self.is_sign("(") {
            return Err(self.unexpected("aggregation", ""));
        }
        let mut args = self.arguments()?;
        let grouping = match before {
            Some(grouping) => grouping,
            None => self.aggregate_modifier()?.unwrap_or(Grouping::By(Vec::new())),
        };
        let wanted = if op.has_parameter() { 2 } else { 1 };
        let Some(expr) = args.pop() else {
            return Err(self.error_at(start, "no arguments for aggregate expression provided"));
        };
        if args.len() + 1 != wanted {
            return Err(self.error_at(
                start,
                format!(
                    "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                    args.len() + 1
                ),
            ));
        }
        let param = args.pop();
        let depth = expr.depth.max(param.as_ref().map_or(0, |p| p.depth)) + 1;
        self.node(start, depth, ExprKind::Aggregate { op, param: param.map(Box::new), expr: Box::new(expr), grouping })
    }

    fn call(&mut self, start: usize, name: &str) -> Parsed<Expr> {
        let Some(function) = functions::find(name) else {
            return Err(self.error_at(start, format!("unknown function with name {name:?}")));
        };
        let args = self.arguments()?;
        let depth = args.iter().map(|a| a.depth).max().unwrap_or(0) + 1;
        self.node(start, depth, ExprKind::Call { function, args })
    }

    /// The matchers in braces, if any, after a name that is already read.
    fn selector(&mut self, name: Option<String>) -> Parsed<Expr> {
        let start = if name.is_some() { self.lexemes[self.at.saturating_sub(1)].start } else { self.start() };
        let mut matchers = Vec::new();
        if self.accept("{") {
            while !self.accept("}") {
                matchers.push(self.matcher()?);
                if !self.accept(",") && !self.is_sign("}") {
                    return Err(self.unexpected("label matching", "\",\" or \"}\""));
                }
            }
        }
        if let Some(name) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name.as_str()));
        }
        let selector = Selector { name, matchers, when: When::default(), edges: Edges::Plain };
        self.node(start, 1, ExprKind::Selector(selector))
    }

    fn matcher(&mut self) -> Parsed<Matcher> {
        let start = self.start();
        let name = match self.peek().clone() {
            Token::Word(name) if is_label_name(&name) => name,
            token => {
                let Some(name) = text(token) else {
                    return Err(self.unexpected("label matching", "identifier or \"}\""));
                };
                if matches!(self.peek_after(), Token::Sign("," | "}")) {
                    self.next();
                    return Ok(Matcher::equal(METRIC_NAME, name));
                }
                name
            }
        };
        self.next();
        let op = match self.peek() {
            Token::Sign("=") => MatchOp::Equal,
            Token::Sign("!=") => MatchOp::NotEqual,
            Token::Sign("=~") => MatchOp::Regex,
            Token::Sign("!~") => MatchOp::NotRegex,
            _ => return Err(self.unexpected("label matching", "label matching operator")),
        };
        self.next();
        let Some(value) = text(self.peek().clone()) else { return Err(self.unexpected("label matching", "string")) };
        self.next();
        self.regexes += usize::from(matches!(op, MatchOp::Regex | MatchOp::NotRegex));
        if self.regexes > MAX_REGEXES {
            return Err(self.error_at(start, format!("more than {MAX_REGEXES} regular expressions in one query")));
        }
        Matcher::new(name, op, value).map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            self.error_at(start, format!("error parsing regexp: {cause}"))
        })
    }
}

/// What a string says. No label holds bytes that are no text, so a matcher may as well ask for what stands in their place.
fn text(token: Token) -> Option<String> {
    match token {
        Token::String(text) => Some(text),
        Token::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        _ => None,
    }
}

pub(crate) fn special_number(word: &str) -> Option<f64> {
    if word.eq_ignore_ascii_case("inf") {
        Some(f64::INFINITY)
    } else if word.eq_ignore_ascii_case("nan") {
        Some(f64::NAN)
    } else {
        None
    }
}
