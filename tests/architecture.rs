//! The house: which room of `src/` may use which, and no two files that use each other, however far
//! around.
//!
//! A room is a folder or a file below `src/`. Every path in the code (but for tests) that leads
//! into another room is an arrow; names that a module re-exports are followed to the file that
//! defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};

/// The rooms, and those that each may use. A path belongs to the longest room that it begins with.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("files", &[]),
    ("limits", &["error"]),
    ("random", &[]),
    ("checksum", &[]),
    ("shape", &["error", "limits"]),
    ("layout", &["error", "limits", "shape"]),
    ("runtime", &["checksum", "error", "layout", "limits", "shape"]),
    ("position", &["error", "limits"]),
    ("sampling", &["error", "limits", "random", "shape"]),
    ("sampling/gpu", &["random", "runtime", "sampling"]),
    ("cache", &["checksum", "error", "limits", "position", "sampling", "shape"]),
    ("cache/gpu", &["cache", "error", "layout", "limits", "runtime", "sampling", "shape"]),
    (
        "attention/kernels",
        &["cache", "cache/gpu", "error", "layout", "position", "runtime", "sampling", "sampling/gpu"],
    ),
    ("attention/inputs", &["error", "layout", "limits", "position", "sampling", "shape"]),
    (
        "attention",
        &[
            "attention/inputs",
            "attention/kernels",
            "cache",
            "cache/gpu",
            "error",
            "layout",
            "limits",
            "position",
            "random",
            "reference",
            "runtime",
            "sampling",
            "sampling/gpu",
            "search",
            "shape",
            "verify",
        ],
    ),
    (
        "attention/native",
        &[
            "attention",
            "attention/inputs",
            "cache",
            "error",
            "layout",
            "limits",
            "position",
            "sampling",
            "shape",
        ],
    ),
    ("reference", &["attention/inputs", "cache", "error", "position", "sampling", "shape"]),
    ("verify", &["attention/kernels", "error", "layout", "reference", "shape"]),
    ("calibration", &["attention/inputs", "error", "limits", "random", "reference", "sampling", "shape"]),
    ("subword", &["checksum", "error", "limits"]),
    ("subword/gpu", &["error", "limits", "runtime", "subword"]),
    ("subword/trainer", &["error", "limits", "runtime", "subword", "subword/gpu"]),
    ("search", &["error", "files", "limits", "random"]),
    ("word2vec", &["error", "files", "limits", "random"]),
    ("word2vec/gpu", &["checksum", "error", "files", "runtime", "word2vec"]),
    (
        "shaders",
        &["attention/kernels", "cache/gpu", "runtime", "sampling/gpu", "subword/gpu", "word2vec/gpu"],
    ),
];

type Module = Vec<String>;

/// A file of `src/`, as the module that it is.
struct File {
    module: Module,
    syntax: syn::File,
}

/// Names that a module re-exports: (module, name) to the path that they stand for.
type Exports = BTreeMap<(Module, String), Module>;

fn files() -> Vec<File> {
    fn walk(folder: &Path, module: &Module, files: &mut Vec<File>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let below = |name| [module.clone(), vec![name]].concat();
            if path.is_dir() {
                walk(&path, &below(name), files);
            } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
                let module = if name == "mod" || name == "lib" { module.clone() } else { below(name) };
                let syntax = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                files.push(File { module, syntax });
            }
        }
    }
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &Vec::new(), &mut files);
    assert!(files.len() > 50, "only {} files found", files.len());
    files
}

/// The paths that a file's code names, made absolute, and what it re-exports.
struct Paths<'a> {
    module: &'a Module,
    modules: &'a BTreeSet<Module>,
    named: BTreeSet<Module>,
    exported: Vec<(String, Module)>,
}

impl Paths<'_> {
    /// A path that begins in this crate, from its root.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let mut base = self.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            // A module below this one, without `self::`.
            first => {
                let below = [base.clone(), vec![first.to_owned()]].concat();
                if !self.modules.contains(&below) {
                    return None;
                }
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn name(&mut self, path: &[String]) {
        self.named.extend(self.absolute(path));
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>, exports: bool) {
        let mut leaf = |name: &syn::Ident, alias: &syn::Ident, before: &Vec<String>| {
            let path = match name.to_string().as_str() {
                "self" => before.clone(),
                name => [before.clone(), vec![name.to_owned()]].concat(),
            };
            match self.absolute(&path) {
                Some(absolute) if exports => self.exported.push((alias.to_string(), absolute)),
                _ => self.name(&path),
            }
        };
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, exports);
                before.pop();
            }
            syn::UseTree::Name(name) => leaf(&name.ident, &name.ident, before),
            syn::UseTree::Rename(rename) => leaf(&rename.ident, &rename.rename, before),
            syn::UseTree::Glob(_) => self.name(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.tree(tree, before, exports));
            }
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let of_tests = |attribute: &syn::Attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    };
    attributes.iter().any(of_tests)
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test(&item.attrs) || item.leading_colon.is_some() {
            return;
        }
        let exports = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), exports);
    }

    /// Paths in documentation are for readers.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            self.name(&names);
        }
        visit::visit_path(self, path);
    }

    /// What a macro is given is no syntax yet: its words are read in order.
    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        let text = invoked.tokens.to_string();
        let words: Vec<&str> = text
            .split(|character: char| !(character.is_alphanumeric() || matches!(character, '_' | ':')))
            .filter(|word| !word.is_empty())
            .collect();
        let mut at = 0;
        while at < words.len() {
            let mut path: Vec<String> =
                words[at].split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            while words[at].ends_with("::") || words.get(at + 1).is_some_and(|next| next.starts_with("::")) {
                at += 1;
                let Some(next) = words.get(at) else { break };
                path.extend(next.split("::").filter(|name| !name.is_empty()).map(str::to_owned));
            }
            at += 1;
            if path.len() > 1 && matches!(path[0].as_str(), "crate" | "self" | "super") {
                self.name(&path);
            }
        }
        visit::visit_macro(self, invoked);
    }
}

/// The file that defines what a path names.
fn resolve(path: &Module, modules: &BTreeSet<Module>, exports: &Exports) -> Module {
    let mut path = path.clone();
    // Re-exports of re-exports end; a circle of them wouldn't compile.
    loop {
        let known = (0..=path.len()).rev().find(|&n| modules.contains(&path[..n])).unwrap_or(0);
        let Some(name) = path.get(known) else { return path };
        let Some(target) = exports.get(&(path[..known].to_vec(), name.clone())) else {
            return path[..known].to_vec();
        };
        path = [target.clone(), path[known + 1..].to_vec()].concat();
    }
}

/// The files that each file uses.
fn uses() -> BTreeMap<Module, BTreeSet<Module>> {
    let files = files();
    let modules: BTreeSet<Module> = files.iter().map(|file| file.module.clone()).collect();
    let mut exports = Exports::new();
    let mut named = Vec::new();
    for File { module, syntax } in &files {
        let mut paths = Paths { module, modules: &modules, named: BTreeSet::new(), exported: Vec::new() };
        paths.visit_file(syntax);
        for (name, target) in paths.exported {
            exports.insert((module.clone(), name), target);
        }
        named.push((module.clone(), paths.named));
    }
    let found: usize = named.iter().map(|(_, named)| named.len()).sum();
    assert!(found > 500, "only {found} paths found");
    named
        .into_iter()
        .map(|(module, named)| {
            let mut used: BTreeSet<Module> =
                named.iter().map(|path| resolve(path, &modules, &exports)).collect();
            used.remove(&module);
            (module, used)
        })
        .collect()
}

fn shown(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("/") }
}

fn room(module: &Module) -> Option<&'static str> {
    let path = module.join("/");
    let within = |room: &&str| path == **room || path.starts_with(&format!("{room}/"));
    ROOMS.iter().map(|(room, _)| *room).filter(within).max_by_key(|room| room.len())
}

#[test]
fn arrows_between_rooms_are_those_that_are_allowed() {
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for (module, used) in uses() {
        if module.is_empty() {
            continue;
        }
        let Some(from) = room(&module) else {
            wrong.push(format!("{} is in no room", shown(&module)));
            continue;
        };
        let allowed = ROOMS.iter().find(|(room, _)| *room == from).map_or(&[][..], |(_, allowed)| allowed);
        for target in used {
            let Some(to) = room(&target) else {
                wrong.push(format!("{} uses {}", shown(&module), shown(&target)));
                continue;
            };
            if from != to {
                needed.insert((from, to));
                if !allowed.contains(&to) {
                    wrong.push(format!("{from} -> {to}: {} uses {}", shown(&module), shown(&target)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that aren't allowed:\n{}", wrong.join("\n"));
    let listed = ROOMS.iter().flat_map(|(from, allowed)| allowed.iter().map(move |to| (*from, *to)));
    let unused: Vec<_> = listed.filter(|arrow| !needed.contains(arrow)).collect();
    assert!(unused.is_empty(), "allowed, and not needed: {unused:?}");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let uses = uses();
    let mut circles = Vec::new();
    // Files from which nothing leads back are on no circle: what is left when they are gone is.
    let mut left: BTreeMap<&Module, BTreeSet<&Module>> = uses
        .iter()
        .filter(|(module, _)| !module.is_empty())
        .map(|(module, used)| (module, used.iter().collect()))
        .collect();
    loop {
        let names: BTreeSet<&Module> = left.keys().copied().collect();
        let reached: BTreeSet<&Module> = left.values().flatten().copied().collect();
        let before = left.len();
        for used in left.values_mut() {
            used.retain(|module| names.contains(module));
        }
        left.retain(|module, used| !used.is_empty() && reached.contains(module));
        if left.len() == before {
            break;
        }
    }
    for (module, used) in &left {
        let used: Vec<String> = used.iter().map(|module| shown(module)).collect();
        circles.push(format!("{} uses {}", shown(module), used.join(", ")));
    }
    assert!(circles.is_empty(), "files in circles:\n{}", circles.join("\n"));
}
