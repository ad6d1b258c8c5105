//! Pieces by their bytes: a double array, which is walked byte by byte.

/// A node of the double array. Its child by a byte is at `base + byte`, if that node's parent says
/// so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Where the children begin; 0 for a node without any.
    base: u32,
    /// The parent's index and 1; 0 for a node that nobody has.
    parent: u32,
    /// The piece that ends here, and 1; 0 where none does.
    piece: u32,
}

/// The pieces of a vocabulary as a tree of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    /// Of pieces that are in order and distinct, each with its number.
    pub(super) fn new(pieces: &[(&[u8], u32)]) -> Self {
        let mut builder = Builder { nodes: vec![Node::default(); 257], free: 1 };
        builder.nodes[0].parent = u32::MAX;
        builder.grow(0, pieces, 0);
        Self { nodes: builder.nodes }
    }

    /// The pieces that the bytes begin with, the shortest first: their lengths and numbers.
    pub(super) fn prefixes<'t>(&'t self, bytes: &'t [u8]) -> impl Iterator<Item = (usize, u32)> + 't {
        let mut at = 0u32;
        let nodes = bytes.iter().map_while(move |&byte| {
            at = self.child(at, byte)?;
            Some(self.nodes[at as usize].piece)
        });
        let pieces = nodes.enumerate().filter(|&(_, piece)| piece > 0);
        pieces.map(|(before, piece)| (before + 1, piece - 1))
    }

    /// The number of a piece.
    pub(super) fn get(&self, piece: &[u8]) -> Option<u32> {
        let end = piece.iter().try_fold(0, |at, &byte| self.child(at, byte))?;
        self.nodes[end as usize].piece.checked_sub(1)
    }

    /// The nodes: where the children begin, or 0; the parent's index and 1; the piece that ends
    /// there and 1, or 0. The root is the first.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = [u32; 3]> + '_ {
        self.nodes.iter().map(|node| [node.base, node.parent, node.piece])
    }

    #[inline]
    fn child(&self, at: u32, byte: u8) -> Option<u32> {
        let base = self.nodes[at as usize].base;
        let child = base + u32::from(byte);
        // Without children the base is 0, and no node there has this one for its parent: the root
        // has children.
        let found = self.nodes.get(child as usize).is_some_and(|node| node.parent == at + 1);
        found.then_some(child)
    }
}

struct Builder {
    nodes: Vec<Node>,
    /// No node before it is free.
    free: usize,
}

impl Builder {
    /// Places the children of a node, whose bytes are the first `depth` of these pieces.
    fn grow(&mut self, at: usize, pieces: &[(&[u8], u32)], depth: usize) {
        let (ends, longer) = match pieces.first() {
            Some((piece, number)) if piece.len() == depth => (Some(number), &pieces[1..]),
            _ => (None, pieces),
        };
        self.nodes[at].piece = ends.map_or(0, |number| number + 1);
        let families: Vec<&[(&[u8], u32)]> = longer.chunk_by(|a, b| a.0[depth] == b.0[depth]).collect();
        if families.is_empty() {
            return;
        }
        let bytes: Vec<usize> = families.iter().map(|family| usize::from(family[0].0[depth])).collect();
        let base = self.place(&bytes);
        self.nodes[at].base = base as u32;
        for &byte in &bytes {
            self.nodes[base + byte].parent = at as u32 + 1;
        }
        for (&byte, family) in bytes.iter().zip(families) {
            self.grow(base + byte, family, depth + 1);
        }
    }

    /// Where nodes at all of these distances, which ascend, are free.
    fn place(&mut self, bytes: &[usize]) -> usize {
        let taken = |nodes: &[Node], at: usize| nodes.get(at).is_some_and(|node| node.parent != 0);
        while taken(&self.nodes, self.free) {
            self.free += 1;
        }
        // A base of 0 means that there are no children.
        let mut base = self.free.saturating_sub(bytes[0]).max(1);
        while bytes.iter().any(|&byte| taken(&self.nodes, base + byte)) {
            base += 1;
        }
        // So that a child by any byte is within the array.
        let end = base + 256;
        if self.nodes.len() < end {
            self.nodes.resize(end, Node::default());
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_those_of_the_list() {
        let pieces: [&[u8]; 8] = [b"\0", b"a", b"ab", b"abcd", b"b", b"ba", b"\xff", b"\xff\xff\0"];
        let mut numbered: Vec<(&[u8], u32)> = pieces.iter().copied().zip(0..).collect();
        numbered.sort_unstable();
        let trie = Trie::new(&numbered);
        let texts: [&[u8]; 8] = [b"", b"a", b"abc", b"abcde", b"ba", b"c", b"\xff\xff\0\0", b"\0a"];
        for text in texts {
            let want = (1..=text.len()).filter_map(|len| {
                let number = pieces.iter().position(|piece| *piece == &text[..len])?;
                Some((len, number as u32))
            });
            assert!(trie.prefixes(text).eq(want), "{text:?}");
            let whole = pieces.iter().position(|piece| *piece == text).map(|number| number as u32);
            assert_eq!(trie.get(text), whole, "{text:?}");
        }
        assert_eq!(Trie::new(&[]).prefixes(b"abc").count(), 0);
    }
}
