const rows = JSON.parse(document.getElementById("rows").textContent);
const boxes = [...document.querySelectorAll(".accept")];
function note() {
  boxes.forEach((box) => (rows[box.dataset.row].accept = box.checked));
  const accepted = boxes.filter((box) => box.checked).length;
  document.getElementById("count").textContent = accepted + " accepted";
}
boxes.forEach((box) => box.addEventListener("change", note));
document.getElementById("save").addEventListener("click", () => {
  note();
  const link = document.createElement("a");
  const kind = { type: "application/json" };
  link.href = URL.createObjectURL(new Blob([JSON.stringify(rows, null, 1)], kind));
  link.download = "decisions.json";
  link.click();
});
note();
