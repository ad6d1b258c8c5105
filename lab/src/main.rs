//! The command line of the lab.

mod commands;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use lab::Interrupted;

use crate::commands::{
    caches, content, generate, passkeys, perplexity, report, search, subword, sweep, train, word2vec,
};

/// Real language models on prflash.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continues a text.
    Generate(generate::Args),
    /// Measures perplexity over windows of one long text, under one or several settings.
    Perplexity(perplexity::Args),
    /// Compares rules that choose blocks, by what a model predicts under them.
    Content(content::Args),
    /// Compares caches of few bits, by what a model predicts behind them.
    Caches(caches::Args),
    /// Asks for numbers that are hidden in texts, under rules that choose blocks.
    Passkeys(passkeys::Args),
    /// Measures what lab/RESULTS.md reports: everything that its files of results don't have yet.
    Sweep(sweep::Args),
    /// Writes lab/RESULTS.md and its pictures from the files of results.
    Report(report::Args),
    /// Trains a small decoder from nothing, and judges it beside models that count.
    Train(train::Args),
    /// Trains, uses and compares vocabularies of sub-words.
    #[command(subcommand)]
    Subword(subword::Command),
    /// Trains vectors of words, prepares texts for that, and judges, compares and converts vectors.
    #[command(subcommand)]
    Word2vec(word2vec::Command),
    /// Compares methods of search on real scores.
    #[command(subcommand)]
    Search(search::Command),
}

fn main() -> ExitCode {
    env_logger::init();
    let arguments = Arguments::parse();
    let handled = commands::handle_stop().context("Ctrl-C can't be handled here");
    let done = handled.and_then(|()| match arguments.command {
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Perplexity(arguments) => perplexity::run(&arguments),
        Command::Content(arguments) => content::run(&arguments),
        Command::Caches(arguments) => caches::run(&arguments),
        Command::Passkeys(arguments) => passkeys::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Subword(command) => subword::run(&command),
        Command::Word2vec(command) => word2vec::run(&command),
        Command::Search(command) => search::run(&command),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
