//! slice
mod null_device;
mod spirv;
fn main() -> anyhow::Result<()> {
    let want = std::env::args().nth(1).unwrap();
    let device = null_device::NullDevice::open()?;
    eprintln!("{} coop {}", device.name, device.cooperative);
    for s in prflash::shaders::sources().iter().filter(|s| s.name.contains(&want)).take(1) {
        let m = spirv::compile(s, spirv::Checks::Checked)?;
        let c = device.compile(&m, s.entry_point, None)?;
        eprintln!("{} {} {:#?}", s.name, c.wave, c.statistics);
        println!("{}", c.assembly);
    }
    Ok(())
}
