use std::path::Path;

use super::*;

fn values() -> Values {
    let number = |(name, number)| (name, Value::Number(number));
    let mut values: Values = [("R", 2), ("T", 2), ("SIX", 6), ("ON", 1), ("OFF", 0)].map(number).into();
    values.insert("TYPE", Value::Word("f16"));
    values.insert("WIDTHS", Value::List(vec![8, 3]));
    values
}

fn assembled(library: &Library) -> Result<String> {
    Ok(assemble(library, "kernel", &values())?.body)
}

fn text(kernel: &'static str) -> String {
    assembled(&[("kernel", kernel)]).unwrap_or_else(|Fault(fault)| fault)
}

fn fault(library: &Library) -> String {
    match assembled(library) {
        Ok(text) => panic!("no fault in {text}"),
        Err(Fault(fault)) => fault,
    }
}

#[test]
fn loops_nest_and_conditions_choose() {
    let nested = "a\n#for r in R\n#for t in T\ns$r_$t\n#end\n#if ON\nyes $r\n#else\nno\n#end ON\n#end r\n#unless ON\nx\n#else\ny\n#end\nb\n";
    assert_eq!(text(nested), "a\ns0_0\ns0_1\nyes 0\ns1_0\ns1_1\nyes 1\ny\nb\n");
    assert_eq!(text("#for r in R, t in T\n$r$t\n#end\n"), "00\n01\n10\n11\n");
    assert_eq!(
        text("  #for r in R, t in T: $r$tu;\n#if OFF: no\n#unless OFF: a: b\n"),
        "  00u;\n  01u;\n  10u;\n  11u;\na: b\n"
    );
    assert_eq!(text("#for bits in WIDTHS\n$(bits)\n#if 32%bits: odd\n#end\n"), "8\n3\nodd\n");
    assert_eq!(text("#for t in 0\nno\n#end\n"), "");
}

#[test]
fn numbers_are_computed_from_left_to_right() {
    assert_eq!(text("#for t in SIX\n$(t/4).$(t%4)\n#end\n"), "0.0\n0.1\n0.2\n0.3\n1.0\n1.1\n");
    assert_eq!(text("$(SIX / 4 * 5) $(SIX)u\n"), "5 6u\n");
}

#[test]
fn pieces_are_imported_once_and_inserted_wherever_they_are_asked_for() {
    let library = [
        (
            "kernel",
            "#import load_$(TYPE)\n#import both\n#insert body with at = $(R)u, of = x[1]\n#for t in T: #insert body with at = t, of = y\nend\n",
        ),
        ("load_f16", "#import both\nload\n"),
        ("both", "both\n"),
        ("body", "$(of)[$(at)]\n"),
    ];
    let want = "\n// load_f16.wgsl\n\n// both.wgsl\nboth\nload\nx[1][2u]\ny[t]\ny[t]\nend\n";
    assert_eq!(assembled(&library).as_deref(), Ok(want));
}

#[test]
fn a_name_stands_for_a_text_that_is_read_where_it_is_used() {
    assert_eq!(
        text("#let key = k[$t][$(t/2)]\n#for t in T: $(key)\n#let key = l\n$(key)\n"),
        "k[0][0]\nk[1][0]\nl\n"
    );
}

#[test]
fn what_is_enabled_stands_in_front_and_comments_stay_as_they_are() {
    let library = [("kernel", "// $x\n#import a\nenable f16;\n"), ("a", "enable f16;\nenable other;\n")];
    let text = assemble(&library, "kernel", &values()).unwrap();
    assert_eq!(text.enables, "enable f16;\nenable other;\n");
    assert_eq!(text.body, "// $x\n\n// a.wgsl\n");
}

#[test]
fn errors_name_file_and_line() {
    for (kernel, want) in [
        ("a\n#if ON\n#for r in R\n#end ON\n", "kernel.wgsl:4: #end ON closes #for r in R of line 3"),
        ("#if ON\n#if OFF\n#end OFF\n", "kernel.wgsl:1: #if ON has no #end"),
        ("#end\n", "kernel.wgsl:1: #end closes nothing"),
        ("#else\n", "kernel.wgsl:1: #else belongs to no #if"),
        ("#for r in R\n#else\n#end\n", "kernel.wgsl:2: #else belongs to no #if"),
        ("#if ON\n#else\n#else\n#end\n", "kernel.wgsl:3: #else belongs to no #if"),
        ("#if ON\n#else OFF\n#end\n", "kernel.wgsl:2: #else OFF belongs to no #if"),
        ("\n#for r of R\n", "kernel.wgsl:2: #for r of R: expected #for name in NUMBER, …"),
        ("#iff ON\n", "kernel.wgsl:1: #iff ON is no directive"),
        ("#if ON: #if ON\n", "kernel.wgsl:1: #if ON stands in a line's middle"),
        ("#if NOBODY\n#end\n", "kernel.wgsl:1: NOBODY is no number that is known here"),
        ("#for t in TYPE\n#end\n", "kernel.wgsl:1: TYPE is no number that is known here"),
        ("#let key k\n", "kernel.wgsl:1: #let key k: expected #let name = text"),
        ("$(SIX/OFF)\n", "kernel.wgsl:1: 6/0 is no number"),
        ("$(SIX+1)\n", "kernel.wgsl:1: + is no sign between numbers"),
        ("$(SIX*)\n", "kernel.wgsl:1: a number is missing"),
        ("$(SIX\n", "kernel.wgsl:1: $(SIX isn't closed"),
        ("a\n$t\n", "kernel.wgsl:2: $t is the number of no loop around it"),
        ("cost: $é\n", "kernel.wgsl:1: $ is the number of no loop around it"),
        ("#import a/b\n", "kernel.wgsl:1: no piece is named a/b"),
        ("#insert a with b\n", "kernel.wgsl:1: #insert a with b: expected #insert name with word = text, …"),
        ("#insert kernel\n", "kernel.wgsl:1: kernel takes itself in: kernel → kernel"),
    ] {
        assert_eq!(fault(&[("kernel", kernel)]), want);
    }
    let library = [("kernel", "#import a\n"), ("a", "\n#import b\n"), ("b", "#import a\n")];
    assert_eq!(fault(&library), "b.wgsl:1: a takes itself in: kernel → a → b → a");
    // What is wrong inside a piece is told of the piece.
    assert_eq!(
        fault(&[("kernel", "#insert a\n"), ("a", "x\n$q\n")]),
        "a.wgsl:2: $q is the number of no loop around it"
    );
}

/// Names of the files below `shaders/`, without their ending.
fn files(folder: &Path, below: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            files(&path, &format!("{below}{name}/"), names);
        } else if let Some(name) = name.strip_suffix(".wgsl") {
            names.push(format!("{below}{name}"));
        }
    }
}

#[test]
fn every_file_is_a_piece_and_every_piece_is_used() {
    let mut names = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders"), "", &mut names);
    names.sort();
    let known: Vec<&str> = PIECES.iter().map(|&(name, _)| name).collect();
    assert_eq!(known, names);
    // Kernels by their entry points, and whatever another file imports or inserts, perhaps by a
    // name that ends as Rust says.
    for &(name, text) in PIECES {
        let file = name.rsplit('/').next().unwrap_or(name);
        let is_kernel = text.contains(&format!("fn {file}("))
            || text.contains("#import cache/moves") && !name.contains("rows");
        let asked = |other: &str| {
            other.lines().filter_map(|line| line.split_once("#import ").or(line.split_once("#insert "))).any(
                |(_, rest)| {
                    let asked = rest.split(" with ").next().unwrap_or(rest).trim();
                    match asked.split_once("$(") {
                        Some((start, _)) => name.starts_with(start),
                        None => asked == name,
                    }
                },
            ) || other.contains(&format!("= {name}\n"))
        };
        assert!(is_kernel || PIECES.iter().any(|&(_, other)| asked(other)), "nobody uses {name}");
    }
}
