//! Every shader variant, without a GPU: naga validates it and translates it to SPIR-V, MSL and
//! HLSL; its structs and bindings are what Rust thinks they are. The sources are left in
//! `target/shaders` for other compilers (`scripts/tint-check`).

use std::path::PathBuf;

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use prflash::shaders::{self, ShaderSource};

fn validated(shader: &ShaderSource) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(&shader.wgsl)
        .unwrap_or_else(|error| panic!("{}: {}", shader.name, error.emit_to_string(&shader.wgsl)));
    // Nothing beyond core WebGPU, of which pack2x16float is a part (only OpenGL ES lacks it), but
    // what the shader names.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if shader.subgroups {
        capabilities |= Capabilities::SUBGROUP;
    }
    if shader.f16 {
        capabilities |= Capabilities::SHADER_FLOAT16;
    }
    if shader.cooperative {
        capabilities |= Capabilities::COOPERATIVE_MATRIX;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if shader.subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE);
        validator
            .subgroup_operations(SubgroupOperationSet::QUAD_FRAGMENT_COMPUTE | SubgroupOperationSet::BALLOT);
    }
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", shader.name, error.emit_to_string(&shader.wgsl)));
    (module, info)
}

/// What every browser offers without being asked.
const BROWSER_WORKGROUP_BYTES: u32 = 16_384;

fn workgroup_bytes(module: &naga::Module) -> u32 {
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()).next_multiple_of(16)).sum()
}

#[test]
fn every_variant_is_valid_and_translates_to_every_backend() {
    for shader in shaders::sources() {
        let (module, info) = validated(&shader);
        let entry = module.entry_points.iter().find(|e| e.name == shader.entry_point);
        assert!(entry.is_some(), "{}: no entry point {}", shader.name, shader.entry_point);
        let fail = |backend: &str, error: &dyn std::fmt::Display| -> ! {
            panic!("{} in {backend}: {error}", shader.name)
        };
        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|error| fail("SPIR-V", &error));
        let mut options = msl::Options { fake_missing_bindings: true, ..Default::default() };
        if shader.cooperative {
            options.lang_version = (2, 3); // the first with matrices
        }
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|error| fail("MSL", &error));
        if shader.cooperative {
            println!("SKIPPED HLSL of {}: naga has no cooperative matrices there", shader.name);
            continue;
        }
        let options = hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = hlsl::PipelineOptions::default();
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|error| fail("HLSL", &error));
        assert!(!text.is_empty());
    }
}

#[test]
fn structs_have_the_layout_that_rust_writes() {
    let sources = shaders::sources();
    let layouts = shaders::host_layouts();
    assert!(!layouts.is_empty());
    for (name, fields, size) in layouts {
        let shader = sources
            .iter()
            .find(|shader| shader.wgsl.contains(&format!("struct {name} {{")))
            .unwrap_or_else(|| panic!("no struct {name} in the shaders"));
        let (module, _) = validated(shader);
        let (_, ty) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).unwrap();
        let naga::TypeInner::Struct { members, span } = &ty.inner else { panic!("{name} is no struct") };
        let got: Vec<(&str, u32)> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset)).collect();
        assert_eq!(got, fields, "{name}");
        assert_eq!(*span, size, "{name}");
    }
}

#[test]
fn bindings_are_those_of_the_architecture() {
    for shader in shaders::sources() {
        let (module, _) = validated(&shader);
        let mut bindings: Vec<(u32, u32, String, bool)> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let at = variable.binding.as_ref()?;
                let writable = matches!(
                    variable.space,
                    naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE)
                );
                Some((at.group, at.binding, variable.name.clone().unwrap_or_default(), writable))
            })
            .collect();
        bindings.sort();
        let names: Vec<(u32, u32, &str, bool)> =
            bindings.iter().map(|(group, binding, name, w)| (*group, *binding, name.as_str(), *w)).collect();
        let mut want = vec![(0, 0, "params", false), (0, 1, "sequences", false)];
        let cached = shader.wgsl.contains("var<uniform> cache:");
        if shader.wgsl.contains("position_table") {
            want.push((0, 2, "position_table", false));
        }
        want.extend_from_slice(match shader.entry_point {
            "attention_naive" | "attention_tiled" | "attention_decode" | "attention_matrix" => {
                &[(1, 0, "tables", false)]
            }
            "attention_backward_queries" if !shader.wgsl.contains("> tables:") => {
                &[(2, 0, "axes", false), (2, 1, "q", false), (2, 2, "query_rows", true)]
            }
            "attention_backward_queries" => &[
                (1, 0, "tables", false),
                (2, 0, "axes", false),
                (2, 1, "q", false),
                (2, 2, "query_rows", true),
            ],
            "attention_backward_delta" => &[
                (2, 0, "axes", false),
                (2, 1, "output", false),
                (2, 2, "d_output", false),
                (2, 3, "lse", false),
                (2, 4, "d_lse", false),
                (2, 5, "query_rows", true),
            ],
            // The gradient of a slope is written beside what is read of its row.
            "attention_backward_rows" if shader.wgsl.contains("read_write> query_rows:") => &[
                (1, 0, "tables", false),
                (2, 0, "axes", false),
                (2, 1, "query_rows", true),
                (2, 2, "k", false),
                (2, 3, "v", false),
                (2, 4, "dq", true),
            ],
            "attention_backward_rows" => &[
                (1, 0, "tables", false),
                (2, 0, "axes", false),
                (2, 1, "query_rows", false),
                (2, 2, "k", false),
                (2, 3, "v", false),
                (2, 4, "dq", true),
            ],
            "attention_backward_heads" => &[
                (2, 0, "axes", false),
                (2, 1, "query_rows", false),
                (2, 2, "d_sinks", true),
                (2, 3, "d_slopes", true),
            ],
            "attention_backward_keys" => &[
                (1, 0, "tables", false),
                (2, 0, "axes", false),
                (2, 1, "query_rows", false),
                (2, 2, "k", false),
                (2, 3, "v", false),
                (2, 4, "dk", true),
                (2, 5, "dv", true),
            ],
            "merge_splits" => &[(1, 0, "states", false), (1, 1, "output", true), (1, 2, "lse", true)],
            "merge" => &[
                (1, 0, "round_output", false),
                (1, 1, "round_lse", false),
                (1, 2, "state", true),
                (1, 3, "output", true),
                (1, 4, "lse", true),
                (1, 5, "standard_error", true),
                (1, 6, "sinks", false),
            ],
            "gather" => &[(1, 0, "source", false), (1, 1, "copy", true)],
            "rotate" => &[(1, 0, "tensor", true)],
            "schedule_count" | "schedule_scan" | "schedule_fill" => {
                &[(1, 0, "distances", false), (1, 1, "tables", true)]
            }
            "summarize" => &[(1, 0, "k", false), (1, 1, "words", true)],
            "block_scores" if cached => &[
                (1, 1, "scores", true),
                (2, 0, "q", false),
                (3, 0, "key_words", false),
                (3, 1, "value_words", false),
                (3, 2, "cache", false),
            ],
            "block_scores" => &[(1, 1, "scores", true), (2, 0, "q", false), (3, 0, "summaries", false)],
            "block_shares" => &[(1, 0, "powers", false), (1, 1, "scores", true)],
            "block_select" | "block_missing" => {
                &[(1, 0, "powers", false), (1, 1, "scores", true), (1, 2, "tables", true)]
            }
            "append" | "quantize" | "encode_segment" | "summarize_segment" => &[
                (1, 0, "keys", true),
                (1, 1, "values", true),
                (1, 2, "cache", false),
                (1, 3, "unsound", true),
                (2, 0, "k", false),
                (2, 1, "v", false),
            ],
            "migrate" => &[(0, 2, "todo", false), (0, 3, "old", false), (0, 4, "new_words", true)],
            "subword_segment" => &[(0, 2, "nodes", false), (0, 3, "usage", true), (0, 4, "cuts", true)],
            "subword_losses" => &[(0, 2, "nodes", false), (0, 3, "least", true)],
            "word2vec_inputs" => &[
                (0, 2, "inputs", false),
                (0, 3, "outputs", false),
                (0, 4, "errors", true),
                (0, 5, "gradients", true),
            ],
            "word2vec_negatives" => {
                &[(0, 2, "inputs", false), (0, 3, "errors", false), (0, 4, "gradients", true)]
            }
            "word2vec_windows" if shader.name.contains("spread") => &[(0, 2, "gradients", true)],
            "word2vec_windows" if shader.name.contains("means") => {
                &[(0, 2, "inputs", false), (0, 3, "sums", true)]
            }
            "word2vec_windows" => &[(0, 2, "inputs", false), (0, 3, "sums", true), (0, 4, "errors", false)],
            "word2vec_fold" => &[(0, 2, "gradients", true)],
            "word2vec_update" => {
                &[(0, 2, "gradients", false), (0, 3, "weights", true), (0, 4, "diverged", true)]
            }
            "step_down" | "fork" | "commit" => &[
                (1, 0, "keys", true),
                (1, 1, "values", true),
                (1, 2, "cache", false),
                (1, 3, "unsound", true),
            ],
            other => panic!("no bindings are stated here for {other}"),
        });
        if shader.entry_point == "gather" {
            want[1].2 = "blocks";
        }
        if matches!(shader.entry_point, "rotate" | "summarize") {
            want[1].2 = "runs";
        }
        if shader.entry_point == "migrate" {
            want[1].2 = "spans";
        }
        if shader.entry_point.starts_with("subword_") {
            want[1].2 = "words";
        }
        if shader.entry_point.starts_with("word2vec_") {
            want[1].2 = "batch";
        }
        if matches!(
            shader.entry_point,
            "append" | "quantize" | "encode_segment" | "summarize_segment" | "step_down" | "fork" | "commit"
        ) {
            want[1].2 = "moves";
        }
        let backward = shader.entry_point.starts_with("attention_backward_");
        if shader.entry_point.starts_with("attention_") && !backward {
            let decode = shader.entry_point == "attention_decode";
            let tensors: &[(&str, bool)] = match (cached, decode) {
                (false, false) => {
                    &[("q", false), ("k", false), ("v", false), ("output", true), ("lse", true)]
                }
                (false, true) => &[("q", false), ("k", false), ("v", false), ("states", true)],
                (true, false) => &[("q", false), ("output", true), ("lse", true)],
                (true, true) => &[("q", false), ("states", true)],
            };
            want.extend((0..).zip(tensors).map(|(at, &(name, writable))| (2, at, name, writable)));
            if cached {
                want.extend([
                    (3, 0, "key_words", false),
                    (3, 1, "value_words", false),
                    (3, 2, "cache", false),
                ]);
            }
        }
        assert_eq!(names, want, "{}", shader.name);
        let storage = module
            .global_variables
            .iter()
            .filter(|(_, v)| matches!(v.space, naga::AddressSpace::Storage { .. }));
        assert!(storage.count() <= 8, "{}: more storage buffers than WebGPU's default", shader.name);
    }
}

#[test]
fn names_are_unique_and_sources_are_left_for_other_compilers() {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let folder = target.join("shaders");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let mut names = std::collections::HashSet::new();
    let mut manifest = Vec::new();
    for shader in shaders::sources() {
        assert!(names.insert(shader.name.clone()), "{} twice", shader.name);
        let file = format!("{}.wgsl", shader.name);
        let subgroups = shader.subgroups && !shader.cooperative;
        let enable = if subgroups { "enable subgroups;\n" } else { "" };
        // The matrices are wgpu's own extension, by a name that no browser has: such shaders are
        // skipped, by name.
        let features = [
            ("subgroups", subgroups),
            ("shader-f16", shader.f16),
            ("wgpu-cooperative-matrix", shader.cooperative),
        ];
        let features: Vec<&str> =
            features.into_iter().filter(|&(_, needed)| needed).map(|(name, _)| name).collect();
        let mut limits = serde_json::Map::new();
        let bytes = workgroup_bytes(&validated(&shader).0);
        if bytes > BROWSER_WORKGROUP_BYTES {
            limits.insert("maxComputeWorkgroupStorageSize".to_owned(), bytes.into());
        }
        std::fs::write(folder.join(&file), format!("{enable}{}", shader.wgsl)).unwrap();
        manifest.push(serde_json::json!({
            "file": file, "entry_point": shader.entry_point, "features": features, "limits": limits,
        }));
    }
    let manifest = serde_json::to_string_pretty(&manifest).unwrap();
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
}

/// WGSL must not repeat a number that Rust renders; only the header defines constants of that kind.
#[test]
fn sizes_come_from_the_header() {
    for shader in shaders::sources() {
        for name in ["HEAD_QUADS", "VALUE_QUADS", "ROWS", "FLAG_CAUSAL", "FLAG_LSE", "NO_TABLE"] {
            let definitions = shader.wgsl.matches(&format!("const {name}:")).count();
            let needed = usize::from(shader.wgsl.contains(name));
            assert_eq!(definitions, needed, "{name} in {}", shader.name);
        }
    }
}
