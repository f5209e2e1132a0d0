"""The paper of each model, for citing it, and where its authors' weights are."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper."""

    key: str
    title: str
    authors: str
    venue: str
    year: int
    released: str  # the authors' repository

    @property
    def bibtex(self) -> str:
        """Its BibTeX entry."""
        return (
            f'@article{{{self.key},\n  title={{{self.title}}},\n  author={{{self.authors}}},\n'
            f'  journal={{{self.venue}}},\n  year={{{self.year}}}\n}}'
        )


PAPERS = {
    'stsanet': Paper(
        'wang2021spatio',
        'Spatio-Temporal Self-Attention Network for Video Saliency Prediction',
        'Wang, Z. and Liu, Z. and Li, G. and Wang, Y. and Zhang, T. and Xu, L. and Wang, J.',
        'IEEE Transactions on Multimedia',
        2021,
        'https://github.com/WZq975/STSANet',
    ),
    'tinyhd': Paper(
        'hu2023tinyhd',
        'TinyHD: Efficient Video Saliency Prediction with Heterogeneous Decoders using '
        'Hierarchical Maps Distillation',
        'Hu, F. and Palazzo, S. and Proietto Salanitri, F. and Bellitto, G. and Moradi, M. and '
        'Spampinato, C. and McGuinness, K.',
        'IEEE/CVF Winter Conference on Applications of Computer Vision',
        2023,
        'https://github.com/feiyanhu/tinyHD',
    ),
    'vinet': Paper(
        'jain2021vinet',
        'ViNet: Pushing the Limits of Visual Modality for Audio-Visual Saliency Prediction',
        'Jain, S. and Yarlagadda, P. and Jyoti, S. and Karthik, S. and Subramanian, R. and '
        'Gandhi, V.',
        'IEEE/RSJ International Conference on Intelligent Robots and Systems',
        2021,
        'https://github.com/samyak0210/ViNet',
    ),
    'tased': Paper(
        'min2019tased',
        'TASED-Net: Temporally-Aggregating Spatial Encoder-Decoder Network for Video Saliency '
        'Detection',
        'Min, K. and Corso, J. J.',
        'IEEE/CVF International Conference on Computer Vision',
        2019,
        'https://github.com/MichiganCOG/TASED-Net',
    ),
    'hd2s': Paper(
        'bellitto2021hierarchical',
        'Hierarchical Domain-Adapted Feature Learning for Video Saliency Prediction',
        'Bellitto, G. and Proietto Salanitri, F. and Palazzo, S. and Rundo, F. and Giordano, D. '
        'and Spampinato, C.',
        'International Journal of Computer Vision',
        2021,
        'https://github.com/perceivelab/hd2s',
    ),
    'unisal': Paper(
        'droste2020unified',
        'Unified Image and Video Saliency Modeling',
        'Droste, R. and Jiao, J. and Noble, J. A.',
        'European Conference on Computer Vision',
        2020,
        'https://github.com/rdroste/unisal',
    ),
    'salema': Paper(
        'linardos2019simple',
        'Simple vs complex temporal recurrences for video saliency prediction',
        "Linardos, P. and Mohedano, E. and Nieto, J. J. and O'Connor, N. E. and Giro-i-Nieto, X. "
        'and McGuinness, K.',
        'British Machine Vision Conference',
        2019,
        'https://github.com/Linardos/SalEMA',
    ),
}
