//! The image that a page of a PDF is, as scanners write them: one JPEG or JPEG 2000 on each page, over it at most letters that
//! are not shown, which recognition put there.
//!
//! Invariants: as [`crate::pdf`]; a page of which more is shown than one image is none of these.
//! What it deliberately does not do: put pages together of what they are drawn of; lines and areas that are drawn are not seen.

use std::collections::HashSet;
use std::io::{Read, Seek};

use crate::Found;
use crate::pdf::{Document, Place, drawn, last_cross_reference};
use crate::pdf_object::{Dictionary, Object};
use crate::source::Source;

/// Calls `each` for the pages in order, `limit` at most, with the file of the image that a page is, where it is one of at
/// most `most_bytes`. What can't be read on ends it.
pub(crate) fn images<R: Read + Seek>(
    source: &mut Source<R>,
    limit: usize,
    most_bytes: u64,
    mut each: impl FnMut(Option<Vec<u8>>),
) {
    // What could not be read has no pages.
    drop(walk(source, limit, most_bytes, &mut each));
}

fn walk<R: Read + Seek>(
    source: &mut Source<R>,
    limit: usize,
    most_bytes: u64,
    each: &mut impl FnMut(Option<Vec<u8>>),
) -> Found<()> {
    let (start, _) = last_cross_reference(source)?;
    let mut document = Document::open(source, start)?;
    let root = document.trailer.get("Root").cloned();
    let root = document.dictionary(root.as_ref())?;
    // Nodes of the page tree that are still to be seen, the next one last, with the resources that they inherit.
    let mut waiting: Vec<(Object, Option<Object>)> =
        root.get("Pages").map(|pages| (pages.clone(), None)).into_iter().collect();
    let mut known = HashSet::new();
    let mut pages = 0;
    while let Some((node, inherited)) = waiting.pop() {
        if pages == limit {
            break;
        }
        // A tree that leads in a circle.
        if let Object::Reference(number) = node
            && !known.insert(number)
        {
            continue;
        }
        let node = document.dictionary(Some(&node))?;
        let resources = node.get("Resources").cloned().or(inherited);
        if let Object::Array(kids) = document.resolved(node.get("Kids"))? {
            waiting.extend(kids.into_iter().rev().map(|kid| (kid, resources.clone())));
            continue;
        }
        pages += 1;
        // One that is damaged is not looked at, as one of which more is shown.
        each(document.image_of(&node, resources.as_ref(), most_bytes).unwrap_or_default());
    }
    Ok(())
}

impl<R: Read + Seek> Document<'_, R> {
    /// The file of the image that `page` is.
    fn image_of(&mut self, page: &Dictionary, resources: Option<&Object>, most_bytes: u64) -> Found<Option<Vec<u8>>> {
        let Some(drawn_by) = self.drawn_by(page)?.filter(|drawn| !drawn.has_more) else { return Ok(None) };
        let resources = self.dictionary(resources)?;
        let objects = self.dictionary(resources.get("XObject"))?;
        let mut image = None;
        for (name, _) in drawn_by.placed {
            let Some(Object::Reference(number)) = objects.0.get(&name) else { return Ok(None) };
            let Some(Place::At(offset)) = self.place(*number)? else { return Ok(None) };
            let object = self.dictionary(objects.0.get(&name))?;
            match object.get("Subtype").and_then(Object::name) {
                Some(b"Image") if image.is_none() => image = Some((offset, object)),
                Some(b"Form") => {
                    let (_, content) = self.stream_at(offset)?;
                    let within = drawn(&content);
                    if within.has_more || !within.placed.is_empty() {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
        }
        let Some((offset, object)) = image else { return Ok(None) };
        // Through a mask, only a part of it shows.
        if ["Mask", "SMask"].iter().any(|key| object.get(key).is_some_and(|mask| *mask != Object::Null)) {
            return Ok(None);
        }
        let filter = match self.resolved(object.get("Filter"))? {
            Object::Array(filters) if filters.len() == 1 => filters.first().cloned().unwrap_or(Object::Null),
            filter => filter,
        };
        if !matches!(filter.name(), Some(b"DCTDecode" | b"DCT" | b"JPXDecode")) {
            return Ok(None);
        }
        Ok(Some(self.raw_stream(offset, most_bytes)?.1))
    }
}
